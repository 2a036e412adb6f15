"""The file of a batch: a table (CSV), or one JSON object a line.

Known columns are the fields of `ExportRequest` and its options, and `output` for `destination`. The
spelling is free: `imodel_id`, `iModel ID` and `iModelId` are one. Other columns are the user's own
and come back in JSON and report. All mistakes of a file are reported at once.
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

from attrs import define, field, fields, frozen

from itwin_export_async import (
    DownloadError,
    ExportOptions,
    ExportRequest,
    InputOptions,
    OutputOptions,
)
from itwin_export_async._files.destinations import (  # no public name yet
    check_destination,
    is_folder,
)
from itwin_export_async._files.names import safe_name  # no public name yet
from itwin_export_async._redaction import redacted  # no public name yet
from itwin_export_async.cli.checks import check_guid, check_ifc_version
from itwin_export_async.cli.errors import UsageError, is_signed, message, user_input

_REQUEST = ("imodel_id", "destination", "key", "display_name", "revision")
_OPTIONS = ("export_type", "ifc_version")
_INPUT = tuple(each.name for each in fields(InputOptions))
_OUTPUT = tuple(each.name for each in fields(OutputOptions))
_URLS = ("mappingfile_blob_url", "output_sas_url", "logs_sas_url")
_SWITCHES = ("replace_older_file", "save_logs")
_SWITCH_VALUES = {
    "true": True, "yes": True, "1": True, "false": False, "no": False, "0": False,
}  # fmt: skip
_LIKENESS = 0.75  # of a column's name to a known one, from which it is taken for a typing error
MAX_MISTAKES = 20  # shown of one file

COLUMNS = (*_REQUEST, *_OPTIONS, *_INPUT, *_OUTPUT)


def _fold(name: str) -> str:
    return re.sub(r"[^0-9a-z]", "", name.casefold())


_KNOWN = {_fold(name): name for name in COLUMNS} | {"output": "destination"}


@frozen
class Line:
    """An export of the file: its request, the number of its line, and the user's own columns."""

    request: ExportRequest
    number: int
    columns: Mapping[str, str]


class _Mistake(Exception):
    """A mistake of one line. `column` counts from 1, None for the whole line."""

    def __init__(self, line: int, text: str, column: int | None = None) -> None:
        super().__init__(text)
        self.line, self.text, self.column = line, text, column


def read_sheet(
    data: bytes, name: str, *, folder: str, defaults: Mapping[str, str | None]
) -> list[Line]:
    """The exports of a file called `name`. Raises a `UsageError` that lists all mistakes.

    Destinations are below `folder`; an export without one gets a folder of its own there, named
    after its key or iModel. `defaults` are for what a line leaves open.
    """
    reader = _SheetReader(folder=folder, defaults=defaults)
    try:
        reader.read(_decode(data))
    except _Mistake as mistake:  # nothing after it can be read
        reader.mistakes.append(mistake)
    if reader.mistakes:
        raise UsageError(_describe(name, reader.mistakes))
    if not reader.lines:
        raise UsageError(f"{name} has no exports")
    return reader.lines


def _describe(name: str, mistakes: Sequence[_Mistake]) -> str:
    texts = []
    for mistake in sorted(mistakes, key=lambda each: each.line):
        column = f", column {mistake.column}" if mistake.column else ""
        texts.append(f"line {mistake.line}{column}: {redacted(mistake.text)}")
    if len(texts) == 1:
        return f"{name}, {texts[0]}"
    shown = texts[:MAX_MISTAKES]
    if len(texts) > MAX_MISTAKES:
        shown.append(f"and {len(texts) - MAX_MISTAKES} more")
    return "\n  ".join([f"{name} has {len(texts)} mistakes:", *shown])


def _decode(data: bytes) -> str:
    for mark, encoding in ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if data.startswith(mark):
            return data.decode(encoding, errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        number = data.count(b"\n", 0, exc.start) + 1
        raise _Mistake(number, 'not UTF-8; save the file as "CSV UTF-8"') from None


@define(kw_only=True)
class _SheetReader:
    folder: str
    defaults: Mapping[str, str | None]
    lines: list[Line] = field(factory=list)
    mistakes: list[_Mistake] = field(factory=list)
    _seen: dict[tuple[str, str], int] = field(factory=dict)

    def read(self, text: str) -> None:
        """Read all lines; a `_Mistake` that is raised ends the reading."""
        if text.lstrip()[:1] in "{[":
            self._read_json(text)
        else:
            self._read_table(text)

    def _read_json(self, text: str) -> None:
        for number, piece in enumerate(text.split("\n"), 1):
            if not piece.strip():
                continue
            try:
                self._add_object(number, piece)
            except _Mistake as mistake:
                self.mistakes.append(mistake)

    def _add_object(self, number: int, piece: str) -> None:
        try:
            value = json.loads(piece)
        except (ValueError, RecursionError) as exc:
            raise _Mistake(number, f"not JSON: {exc}") from None
        if not isinstance(value, dict):
            raise _Mistake(number, "not a JSON object")
        columns = _known_columns(list(value), number)
        self._add(number, columns, list(value), list(value.values()))

    def _read_table(self, text: str) -> None:
        first, _, rest = text.partition("\n")
        declared = re.fullmatch(r"sep=(.)\r?", first)  # Excel names the separator so
        offset, table = (1, rest) if declared else (0, text)
        head = table.lstrip().partition("\n")[0]
        separator = declared[1] if declared else max(",;\t", key=head.count)
        rows = csv.reader(StringIO(table, newline=""), delimiter=separator, strict=True)
        names: list[str] = []
        columns: list[str] | None = None
        while True:
            number = rows.line_num + offset + 1
            try:
                cells = [cell.strip() for cell in next(rows)]
            except StopIteration:
                return
            except csv.Error as exc:
                raise _Mistake(number, f"not CSV: {exc}") from None
            if not any(cells):
                continue
            if columns is None:
                names, columns = cells, _known_columns(cells, number)
                continue
            try:
                self._add_row(number, columns, names, cells)
            except _Mistake as mistake:
                self.mistakes.append(mistake)

    def _add_row(self, number: int, columns: list[str], names: list[str], cells: list[str]) -> None:
        for place, cell in enumerate(cells, 1):
            if cell and (place > len(names) or not names[place - 1]):
                raise _Mistake(number, f"{cell!r} has no column name", place)
        self._add(number, columns, names, [cell or None for cell in cells])

    def _add(
        self, number: int, columns: Sequence[str], names: Sequence[str], cells: Sequence[Any]
    ) -> None:
        values: dict[str, Any] = {}
        own: dict[str, str] = {}
        for place, (column, name, cell) in enumerate(zip(columns, names, cells, strict=False), 1):
            if cell is None or not name:
                continue
            if column:
                values[column] = cell
                self._check_destination_column(number, column, cell, place)
            else:
                own[name] = cell if isinstance(cell, str) else json.dumps(cell, ensure_ascii=False)
                if is_signed(own[name]):
                    text = f"{name} holds a signed URL: are the columns shifted?"
                    raise _Mistake(number, text, place)
        given = {name: value for name, value in self.defaults.items() if value is not None}
        try:
            with user_input():
                request = _to_request({**given, **values}, self.folder)
                check_destination(request.destination)
        except (UsageError, DownloadError) as exc:
            raise _Mistake(number, message(exc)) from None
        for unique in _unique_values(request, "destination" in values):
            if (earlier := self._seen.setdefault(unique, number)) != number:
                raise _Mistake(number, f"{unique[0]} {unique[1]!r} is in line {earlier} already")
        self.lines.append(Line(request, number, own))

    def _check_destination_column(self, number: int, column: str, cell: object, place: int) -> None:
        if column == "destination" and isinstance(cell, str) and escapes_folder(cell):
            text = f"destination {cell!r} is outside the output folder"
            raise _Mistake(number, text, place)


def _known_columns(names: Sequence[str], number: int) -> list[str]:
    """The known column that each name means, empty for the user's own ones."""
    columns: list[str] = []
    for place, name in enumerate(names, 1):
        folded = _fold(name)
        column = _KNOWN.get(folded, "")
        if folded and not column:
            if is_signed(name):
                raise _Mistake(number, f"{name!r} is a signed URL, and no column name", place)
            if near := get_close_matches(folded, _KNOWN, n=1, cutoff=_LIKENESS):
                raise _Mistake(
                    number,
                    f"{name!r} is not known; did you mean {_KNOWN[near[0]]!r}? Rename the column "
                    "if it is your own",
                    place,
                )
        if column and column in columns:
            raise _Mistake(number, f"{name!r} is there twice", place)
        columns.append(column)
    if "imodel_id" not in columns:
        raise _Mistake(number, "there is no imodel_id")
    return columns


def escapes_folder(place: str, flavour: type[PurePath] = PurePath) -> bool:
    """Whether a destination is outside its folder: absolute, on a drive, or above it."""
    path = flavour(place)
    depths = accumulate(-1 if part == ".." else 1 for part in path.parts)
    return bool(path.anchor) or min(depths, default=0) < 0


def _to_request(values: Mapping[str, Any], folder: str) -> ExportRequest:
    given = {name: _convert(name, value) for name, value in values.items()}
    imodel_id = check_guid("imodel_id", given.get("imodel_id", ""))

    def some(names: tuple[str, ...]) -> dict[str, Any]:
        return {name: given[name] for name in names if name in given}

    options = ExportOptions(
        **some(_OPTIONS),
        input=InputOptions(**some(_INPUT)),
        output=OutputOptions(**some(_OUTPUT)),
    )
    if options.input.changeset_id is not None:
        given.setdefault("revision", options.input.changeset_id)
    own = own_folder(given.get("key", imodel_id), imodel_id)
    place = given.get("destination", os.path.join(own, ""))
    destination = os.path.join(PurePath(folder), place)  # ./out/ is out, to a ledger too
    return ExportRequest(**{**some(_REQUEST), "destination": destination, "options": options})


def own_folder(key: str, imodel_id: str) -> str:
    """The name of an export's own folder: the separators of a key make no folders."""
    return safe_name(re.sub(r"[/\\]", "_", key), fallback=imodel_id)


def _convert(name: str, value: Any) -> Any:
    """The value of a column: a table can only write it as text."""
    if isinstance(value, str) and is_signed(value) and name not in _URLS:
        raise UsageError(f"{name} holds a signed URL: are the columns shifted?")
    if name == "model_ids" and isinstance(value, str):
        return tuple(filter(None, re.split(r"[;\s]+", value)))
    if name in _SWITCHES and isinstance(value, str):
        if value.casefold() not in _SWITCH_VALUES:
            raise UsageError(f"{name} must be true or false, not {value!r}")
        return _SWITCH_VALUES[value.casefold()]
    if name in _REQUEST and not isinstance(value, str):
        raise UsageError(f"{name} must be a text, not {value!r}")
    if name == "ifc_version" and isinstance(value, str):
        return check_ifc_version(value)
    return value


def _unique_values(request: ExportRequest, has_destination: bool) -> Iterator[tuple[str, str]]:
    """What no other line may have: a key, and a destination that is not a shared folder."""
    if request.key is not None:
        yield "key", request.key
    if not has_destination or not is_folder(request.destination):
        yield "destination", os.path.normpath(request.destination)
    elif request.key is None:
        yield "export", request.identity
