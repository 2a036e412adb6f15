"""What a batch is asked for: a table (CSV), or one JSON object a line.

The columns are the fields of `ExportRequest` and its options, and `output` for `destination`. How
they are spelled does not matter: `imodel_id`, `iModel ID` and `iModelId` are one. What is wrong is
a `ValueError` that names the line.
"""

import csv
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from io import StringIO
from itertools import accumulate
from pathlib import PurePath
from typing import Any

from attrs import fields, frozen

from itwin_export_async import ExportOptions, ExportRequest, InputOptions, OutputOptions
from itwin_export_async._files.download import is_folder
from itwin_export_async._files.names import safe_name
from itwin_export_async._protocol.urls import validate_id
from itwin_export_async._redaction import redacted
from itwin_export_async.cli.errors import is_signed

_REQUEST = ("imodel_id", "destination", "key", "display_name")
_OPTIONS = ("export_type", "ifc_version")
_INPUT = tuple(field.name for field in fields(InputOptions))
_OUTPUT = tuple(field.name for field in fields(OutputOptions))
_ADDRESSES = ("mappingfile_blob_url", "output_sas_url", "logs_sas_url")
_SWITCHES = ("replace_older_file", "save_logs")
_SAID = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}

COLUMNS = (*_REQUEST, *_OPTIONS, *_INPUT, *_OUTPUT)


def _folded(name: str) -> str:
    return re.sub(r"[^0-9a-z]", "", name.casefold())


_KNOWN = {_folded(name): name for name in COLUMNS} | {"output": "destination"}


@frozen
class _Line:
    """One export as it is written: `number` is that of its line, empty values are left out."""

    number: int
    values: Mapping[str, Any]


def read_sheet(
    data: bytes, name: str, *, folder: str, defaults: Mapping[str, str | None]
) -> list[ExportRequest]:
    """The requests of a file called `name`.

    Destinations are below `folder`; where there is none, the export gets a folder of its own there,
    called after its key or iModel. `defaults` are for what a line leaves open.
    """
    reader = _Sheet(name=name, folder=folder, defaults=defaults)
    return reader.requests(reader.decoded(data))


@frozen(kw_only=True)
class _Sheet:
    name: str
    folder: str
    defaults: Mapping[str, str | None]

    def decoded(self, data: bytes) -> str:
        for mark, encoding in ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
            if data.startswith(mark):
                return data.decode(encoding, errors="replace")
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as exc:
            number = data.count(b"\n", 0, exc.start) + 1
            raise self._wrong(number, 'is not UTF-8; save the file as "CSV UTF-8"') from None

    def requests(self, text: str) -> list[ExportRequest]:
        lines = self._objects(text) if text.lstrip()[:1] in "{[" else self._rows(text)
        taken: dict[tuple[str, str], int] = {}
        requests = []
        for line in lines:
            request = self._request(line)
            for claim in _claims(request, line):
                if (earlier := taken.setdefault(claim, line.number)) != line.number:
                    what = f"{claim[0]} {claim[1]!r} stands in line {earlier} already"
                    raise self._wrong(line.number, what)
            requests.append(request)
        if not requests:
            raise ValueError(f"{self.name} asks for no export")
        return requests

    def _objects(self, text: str) -> Iterator[_Line]:
        for number, piece in enumerate(text.split("\n"), 1):
            if not piece.strip():
                continue
            try:
                told = json.loads(piece)
            except (ValueError, RecursionError) as exc:
                raise self._wrong(number, f"is no JSON: {exc}") from None
            if not isinstance(told, dict):
                raise self._wrong(number, "is not one JSON object")
            names = self._columns(list(told), number)
            yield self._line(number, names, dict(zip(names, told.values(), strict=True)))

    def _rows(self, text: str) -> Iterator[_Line]:
        first, _, rest = text.partition("\n")
        told = re.fullmatch(r"sep=(.)\r?", first)  # Excel's own way to name it
        offset, table = (1, rest) if told else (0, text)
        head = table.lstrip().partition("\n")[0]
        separator = told[1] if told else max(",;\t", key=head.count)
        rows = csv.reader(StringIO(table, newline=""), delimiter=separator, strict=True)
        columns: list[str] | None = None
        while True:
            number = rows.line_num + offset + 1
            try:
                row = next(rows, None)
            except csv.Error as exc:
                raise self._wrong(number, f"is no CSV: {exc}") from None
            if row is None:
                return
            cells = [cell.strip() for cell in row]
            if not any(cells):
                continue
            if columns is None:
                columns = self._columns(cells, number)
            else:
                yield self._line(number, columns, self._named(columns, cells, number))

    def _columns(self, names: list[str], number: int) -> list[str]:
        columns: list[str] = []
        for place, name in enumerate(names, 1):
            column = self._column(name, place, number) if name else ""
            if column and column in columns:
                raise self._wrong(number, f"{name!r} is there twice", place)
            columns.append(column)
        if "imodel_id" not in columns:
            raise self._wrong(number, "there is no imodel_id")
        return columns

    def _column(self, name: str, place: int, number: int) -> str:
        folded = _folded(name)
        if folded in _KNOWN:
            return _KNOWN[folded]
        near = get_close_matches(folded, _KNOWN, n=1)
        hint = f"did you mean {_KNOWN[near[0]]!r}?" if near else f"known are {', '.join(COLUMNS)}"
        raise self._wrong(number, f"{name!r} is not known, {hint}", place)

    def _named(self, columns: list[str], cells: list[str], number: int) -> dict[str, Any]:
        for place, cell in enumerate(cells, 1):
            if cell and (place > len(columns) or not columns[place - 1]):
                raise self._wrong(number, f"{cell!r} stands under no name", place)
        return {name: cell for name, cell in zip(columns, cells, strict=False) if cell}

    def _line(self, number: int, columns: Sequence[str], values: Mapping[str, Any]) -> _Line:
        given = {name: value for name, value in values.items() if name and value is not None}
        place = given.get("destination")
        if isinstance(place, str) and leads_out(place):
            what = f"destination {place!r} leads out of the output folder"
            raise self._wrong(number, what, columns.index("destination") + 1)
        return _Line(number, given)

    def _request(self, line: _Line) -> ExportRequest:
        given = {name: value for name, value in self.defaults.items() if value is not None}
        try:
            return _request({**given, **line.values}, self.folder)
        except (ValueError, TypeError) as exc:
            raise self._wrong(line.number, f"{exc}") from None

    def _wrong(self, number: int, what: str, place: int | None = None) -> ValueError:
        where = f"{self.name}, line {number}" + (f", column {place}" if place else "")
        return ValueError(f"{where}: {redacted(what)}")


def leads_out(place: str, flavour: type[PurePath] = PurePath) -> bool:
    """Whether a place is not below the folder that it is in: absolute, on a drive, or above it."""
    path = flavour(place)
    depths = accumulate(-1 if part == ".." else 1 for part in path.parts)
    return bool(path.anchor) or min(depths, default=0) < 0


def _request(values: Mapping[str, Any], folder: str) -> ExportRequest:
    said = {name: _said(name, value) for name, value in values.items()}
    imodel_id = validate_id("imodel_id", said.get("imodel_id", ""))

    def some(names: tuple[str, ...]) -> dict[str, Any]:
        return {name: said[name] for name in names if name in said}

    options = ExportOptions(
        **some(_OPTIONS),
        input=InputOptions(**some(_INPUT)),
        output=OutputOptions(**some(_OUTPUT)),
    )
    own = safe_name(said.get("key", imodel_id), fallback=imodel_id)
    place = said.get("destination", os.path.join(own, ""))
    destination = os.path.join(PurePath(folder), place)  # also ./out/ is out, to a ledger
    return ExportRequest(**{**some(_REQUEST), "destination": destination, "options": options})


def _said(name: str, value: Any) -> Any:
    """The value of a column: what a table can only write as text becomes what it means."""
    if isinstance(value, str) and is_signed(value) and name not in _ADDRESSES:
        raise ValueError(f"{name} holds a signed address: are the columns shifted?")
    if name == "model_ids" and isinstance(value, str):
        return tuple(filter(None, re.split(r"[;\s]+", value)))
    if name in _SWITCHES and isinstance(value, str):
        if value.casefold() not in _SAID:
            raise ValueError(f"{name} must be true or false, not {value!r}")
        return _SAID[value.casefold()]
    if name in _REQUEST and not isinstance(value, str):
        raise TypeError(f"{name} must be a text, not {value!r}")
    return value


def _claims(request: ExportRequest, line: _Line) -> Iterator[tuple[str, str]]:
    """What no other line may have: its key, and a destination that is not a folder for many."""
    if request.key is not None:
        yield "key", request.key
    if "destination" not in line.values or not is_folder(request.destination):
        yield "destination", os.path.normpath(request.destination)
    elif request.key is None:
        yield "export", request.identity
