"""The sample files that exports produce: an IFC model of a bridge, and a PDF with one empty page.

The IFC files are STEP physical files (ISO 10303-21). They use only entities that have the same
meaning in all schemas. Equal arguments give equal bytes.
"""

from hashlib import sha256
from itertools import count

_SCHEMAS = {
    "IFC4.3": ("IFC4X3_ADD2", "ReferenceView"),
    "IFC2x3": ("IFC2X3", "CoordinationView"),
    "IFC2x3 CV 2.0": ("IFC2X3", "CoordinationView_V2.0"),
    "IFC4 RV 1.2": ("IFC4", "ReferenceView_V1.2"),
}
IFC_VERSIONS = frozenset(_SCHEMAS)

_WRITTEN = "2020-01-01T00:00:00"
_WRITTEN_SECONDS = 1577836800

_Box = tuple[str, tuple[float, float, float], tuple[float, float, float]]
_BRIDGE: tuple[_Box, ...] = (  # name; middle of the bottom; length, width, height
    ("Abutment West", (-31.0, 0.0, -2.0), (3.0, 12.0, 8.0)),
    ("Abutment East", (31.0, 0.0, -2.0), (3.0, 12.0, 8.0)),
    ("Pier 1", (-15.0, 0.0, -2.0), (1.5, 7.0, 8.0)),
    ("Pier 2", (0.0, 0.0, -2.0), (1.5, 7.0, 8.0)),
    ("Pier 3", (15.0, 0.0, -2.0), (1.5, 7.0, 8.0)),
    ("Deck", (0.0, 0.0, 6.0), (66.0, 11.0, 1.2)),
    ("Parapet North", (0.0, 5.3, 7.2), (66.0, 0.4, 1.1)),
    ("Parapet South", (0.0, -5.3, 7.2), (66.0, 0.4, 1.1)),
)

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_$"


def ifc_file(name: str, *, ifc_version: str) -> bytes:
    """Return a model of a bridge with this name, in the schema of an IFC version."""
    schema, view = _SCHEMAS[ifc_version]
    step = _Step(key=f"{name} in {ifc_version}")
    _write_model(step, name)
    lines = [
        "ISO-10303-21;",
        "HEADER;",
        f"FILE_DESCRIPTION(('ViewDefinition [{view}]'),'2;1');",
        f"FILE_NAME({_text(name + '.ifc')},'{_WRITTEN}',(''),(''),'emulator','emulator','');",
        f"FILE_SCHEMA(('{schema}'));",
        "ENDSEC;",
        "DATA;",
        *step.lines,
        "ENDSEC;",
        "END-ISO-10303-21;",
        "",
    ]
    return "\n".join(lines).encode("ascii")


class _Step:
    """The lines of the data section, numbered in the order in which they are added."""

    def __init__(self, *, key: str) -> None:
        self.lines: list[str] = []
        self._key = key
        self._numbers = count(1)

    def add(self, entity: str) -> str:
        """Add an entity and return the reference to it."""
        number = next(self._numbers)
        self.lines.append(f"#{number}={entity};")
        return f"#{number}"

    def global_id(self) -> str:
        """Return a GlobalId of 22 characters: 128 bits in base 64, derived from the key."""
        number = int.from_bytes(sha256(f"{self._key} {len(self.lines)}".encode()).digest()[:16])
        return "'" + "".join(_DIGITS[number >> shift & 63] for shift in range(126, -1, -6)) + "'"


def pdf_file(title: str) -> bytes:
    """Return a PDF document with this title and one empty page."""
    objects = (
        "<</Type/Catalog/Pages 2 0 R>>",
        "<</Type/Pages/Kids[3 0 R]/Count 1>>",
        "<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]>>",
        f"<</Title<FEFF{title.encode('utf-16-be').hex()}>>>",
    )
    document = "%PDF-1.4\n"
    entries = ["0000000000 65535 f \n"]
    for number, content in enumerate(objects, start=1):
        entries.append(f"{len(document):010d} 00000 n \n")
        document += f"{number} 0 obj{content}endobj\n"
    size = len(entries)
    trailer = f"trailer<</Size {size}/Root 1 0 R/Info {size - 1} 0 R>>"
    start = len(document)
    document += f"xref\n0 {size}\n{''.join(entries)}{trailer}\nstartxref\n{start}\n%%EOF\n"
    return document.encode("ascii")


def _text(text: str) -> str:
    return "'" + "".join(map(_character, text)) + "'"


def _character(character: str) -> str:
    if character in "'\\":
        return character * 2
    if " " <= character <= "~":
        return character
    code = ord(character)
    return f"\\X2\\{code:04X}\\X0\\" if code <= 0xFFFF else f"\\X4\\{code:08X}\\X0\\"


def _write_model(step: _Step, name: str) -> None:
    owner = _owner(step)
    origin = step.add("IFCCARTESIANPOINT((0.,0.,0.))")
    axes = step.add(f"IFCAXIS2PLACEMENT3D({origin},$,$)")
    context = step.add(f"IFCGEOMETRICREPRESENTATIONCONTEXT($,'Model',3,1.E-05,{axes},$)")
    project = step.add(
        f"IFCPROJECT({step.global_id()},{owner},{_text(name)},$,$,$,$,({context}),{_units(step)})"
    )
    place = step.add(f"IFCLOCALPLACEMENT($,{axes})")
    site = step.add(
        f"IFCSITE({step.global_id()},{owner},'Site',$,$,{place},$,$,.ELEMENT.,$,$,$,$,$)"
    )
    inner = step.add(f"IFCLOCALPLACEMENT({place},{axes})")
    building = step.add(
        f"IFCBUILDING({step.global_id()},{owner},{_text(name)},$,$,{inner},$,$,.ELEMENT.,$,$,$)"
    )
    for whole, part in (project, site), (site, building):
        step.add(f"IFCRELAGGREGATES({step.global_id()},{owner},$,$,{whole},({part}))")
    up = step.add("IFCDIRECTION((0.,0.,1.))")
    boxes = [_box(step, box, owner, inner, context, axes, up) for box in _BRIDGE]
    step.add(
        f"IFCRELCONTAINEDINSPATIALSTRUCTURE({step.global_id()},{owner},$,$,"
        f"({','.join(boxes)}),{building})"
    )


def _owner(step: _Step) -> str:
    person = step.add("IFCPERSON($,'Emulator',$,$,$,$,$,$)")
    organization = step.add("IFCORGANIZATION($,'Emulator',$,$,$)")
    both = step.add(f"IFCPERSONANDORGANIZATION({person},{organization},$)")
    application = step.add(f"IFCAPPLICATION({organization},'1','Emulator','emulator')")
    return step.add(
        f"IFCOWNERHISTORY({both},{application},$,.ADDED.,{_WRITTEN_SECONDS},$,$,{_WRITTEN_SECONDS})"
    )


def _units(step: _Step) -> str:
    units = [
        step.add(f"IFCSIUNIT(*,.{kind}.,$,.{unit}.)")
        for kind, unit in (
            ("LENGTHUNIT", "METRE"),
            ("AREAUNIT", "SQUARE_METRE"),
            ("VOLUMEUNIT", "CUBIC_METRE"),
            ("PLANEANGLEUNIT", "RADIAN"),
        )
    ]
    return step.add(f"IFCUNITASSIGNMENT(({','.join(units)}))")


def _box(step: _Step, box: _Box, owner: str, inside: str, context: str, axes: str, up: str) -> str:
    name, (x, y, z), (length, width, height) = box
    point = step.add(f"IFCCARTESIANPOINT(({x},{y},{z}))")
    place = step.add(f"IFCLOCALPLACEMENT({inside},{step.add(f'IFCAXIS2PLACEMENT3D({point},$,$)')})")
    middle = step.add(f"IFCAXIS2PLACEMENT2D({step.add('IFCCARTESIANPOINT((0.,0.))')},$)")
    profile = step.add(f"IFCRECTANGLEPROFILEDEF(.AREA.,$,{middle},{length},{width})")
    solid = step.add(f"IFCEXTRUDEDAREASOLID({profile},{axes},{up},{height})")
    shape = step.add(f"IFCSHAPEREPRESENTATION({context},'Body','SweptSolid',({solid}))")
    product = step.add(f"IFCPRODUCTDEFINITIONSHAPE($,$,({shape}))")
    return step.add(
        f"IFCBUILDINGELEMENTPROXY({step.global_id()},{owner},'{name}',$,$,{place},{product},$,$)"
    )
