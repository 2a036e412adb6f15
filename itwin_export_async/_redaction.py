"""What must not be shown: tokens, signatures, client secrets, and the queries of URLs.

Secrets travel as `Secret`, whose repr is silent. A text that a service sent passes through
`redacted` before it enters an error, a log or a file: known values are struck out first, then what
looks like a secret. Each pattern takes time in proportion to the text.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from urllib.parse import parse_qsl

from attrs import field, frozen

MAX_TEXT = 500  # characters of one text of a service
MAX_ESCAPED = 1024 * 1024  # bytes of a text in which escaped secrets are looked for
MIN_SECRET = 8  # characters; striking out shorter values would break ordinary words

_SECRET_PARAMETERS = frozenset(
    {"sig", "access_token", "refresh_token", "client_secret", "password"}
)
_SECRETS = re.compile(
    r"(?P<name>\bbearer\s+"
    r"|(?:(?<![a-z_])|(?<=%3f))(?:sig|access_token|refresh_token|client_secret|password)"
    r"[\"'\\]*\s*(?:[=:]|%(?:25)*3d)[\s\"'\\]*)"
    r"[^\s\"'<>]+"
    r"|\b(?-i:eyJ)[\w.-]{20,}",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\s\"'<>]+")  # a URL holds none of these
_REFERENCE = (
    r"(?:&|\\+u0026)(?:amp;)*"
    r"(?:#0*(?P<decimal>[0-9]{1,9});?|#x0*(?P<hexadecimal>[0-9a-f]{1,8});?"
    r"|(?P<name>[a-z][a-z0-9]{0,39});|(?P<bare>amp|lt|gt|quot))"
)
_ESCAPED = (
    _REFERENCE + r"|\\+u(?P<high>d[89ab][0-9a-f]{2})\\+u(?P<low>d[c-f][0-9a-f]{2})"
    r"|\\+u(?P<unicode>[0-9a-f]{4})"
    r"|\\+(?P<character>[^\\&%]?)"
)
_ESCAPE = re.compile(_ESCAPED, re.IGNORECASE)
_ESCAPE_OR_PERCENT = re.compile(_ESCAPED + r"|%(?:25)*(?P<percent>[0-9a-f]{2})", re.IGNORECASE)
# however it is escaped, a backslash counts for nothing, and a control character for its letter
_LETTERS = str.maketrans("\b\f\n\r\t", "bfnrt")
_FOLDED = _LETTERS | {ord("\\"): ""}
_USER = re.compile(r"(?<=//)[^/@]*@")


@frozen(repr=False)
class Secret:
    """A text that no traceback shows. `reveal()` returns it."""

    _value: str = field()

    def reveal(self) -> str:
        """The text itself, for the request that needs it."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"


def without_query(url: str) -> str:
    """The URL without what may hold a secret: its query, fragment and user."""
    bare = re.split(r"[?#]", url, maxsplit=1)[0]
    return re.sub(r"(?<=//)[^/]*@", "", bare, count=1)


def signatures(*urls: str | None) -> tuple[Secret, ...]:
    """The secrets in the queries of signed URLs."""
    found: list[Secret] = []
    for url in urls:
        if url and "?" in url:
            query = url.partition("?")[2].partition("#")[0]
            for name, value in parse_qsl(query):
                if name.lower() in _SECRET_PARAMETERS:
                    found.append(Secret(value))
    return tuple(found)


def holds_secret(text: str) -> bool:
    """Whether a text is a URL with a query, or holds what looks like a secret."""
    return _without_patterns(text) != text


def redacted(text: str, secrets: Iterable[Secret] = (), *, limit: int = MAX_TEXT) -> str:
    """The text in one line of at most `limit` characters, without secrets.

    `secrets` are struck out by value, everything else by its looks. Control characters are spelled
    out.
    """
    text = struck_out(text, secrets)
    if len(text) > 4 * limit:  # the patterns need no more than what is left to show
        text = text[: 4 * limit]
    return _one_line(_without_patterns(text))[:limit]


def safe_repr(value: object, *, limit: int = 80) -> str:
    """The repr of what a caller passed, short and without secrets."""
    if isinstance(value, str):  # whose repr spells control characters out
        return repr(_without_patterns(value[: 4 * limit])[:limit])
    return redacted(repr(value), limit=limit)


def struck_out(text: str, secrets: Iterable[Secret]) -> str:
    """The text without these values; escaped ones are looked for in its first MiB."""
    units = text.encode(errors="surrogatepass").decode("latin-1")
    struck = _struck_out(units, secrets)
    return text if struck == units else struck.encode("latin-1").decode(errors="surrogatepass")


def struck_out_bytes(body: bytes, secrets: Iterable[Secret]) -> bytes:
    """The body without these values; escaped ones are looked for in its first MiB."""
    units = body.decode("latin-1")
    struck = _struck_out(units, secrets)
    return body if struck == units else struck.encode("latin-1")


def _struck_out(units: str, secrets: Iterable[Secret]) -> str:
    """The same for a text whose characters are the bytes of its UTF-8."""
    values = [one.reveal().encode(errors="surrogatepass").decode("latin-1") for one in secrets]
    values = [value for value in values if len(value) >= MIN_SECRET]
    # a backslash at the end may escape the next character
    spans = [span for value in values for span in _spans_of(value.rstrip("\\"), units)]
    head = units[:MAX_ESCAPED]
    if values and any(mark in head for mark in "&%\\"):
        for escape in (_ESCAPE, _ESCAPE_OR_PERCENT):
            plain = Unescaped.of(head, escape)
            for value in values:
                spans += plain.spans_of(Unescaped.of(value, escape).text)
    kept, end = [], 0
    for start, stop in sorted(spans):
        if start >= end:
            kept += [units[end:start], "***"]
        end = max(end, stop)
    return "".join([*kept, units[end:]])


def _spans_of(value: str, text: str) -> Iterator[tuple[int, int]]:
    """Where a value begins and ends in a text, each time that it occurs."""
    if 2 * len(value) < MIN_SECRET:  # too little is left of it
        return
    at = text.find(value)
    while at >= 0:
        yield at, at + len(value)
        at = text.find(value, at + len(value))


@frozen
class Unescaped:
    """A text without the escapes of JSON, URLs and HTML.

    `pieces` say where it comes from: the offset of a piece in `text`, where the piece begins in the
    escaped text, and where it ends there; None for a piece that was not escaped.
    """

    text: str
    pieces: list[tuple[int, int, int | None]]

    @classmethod
    def of(cls, escaped: str, escape: re.Pattern[str]) -> "Unescaped":
        """Without its escapes, also those of escapes."""
        escaped = escaped.translate(_LETTERS)
        texts: list[str] = []
        pieces: list[tuple[int, int, int | None]] = [(0, 0, None)]
        offset = end = 0
        for found in escape.finditer(escaped):
            plain = _meaning(found)
            texts += [escaped[end : found.start()], plain]
            offset += found.start() - end
            end = found.end()
            pieces.append((offset, found.start(), end))
            offset += len(plain)
            pieces.append((offset, end, None))
        return cls("".join([*texts, escaped[end:]]), pieces)

    def spans_of(self, value: str) -> Iterator[tuple[int, int]]:
        """Where the value begins and ends in the escaped text, each time that it occurs."""
        for start, stop in _spans_of(value, self.text):
            yield self._source(start)[0], self._source(stop - 1)[1]

    def _source(self, offset: int) -> tuple[int, int]:
        """Where a character begins and ends in the escaped text."""
        index = bisect_right(self.pieces, offset, key=lambda piece: piece[0]) - 1
        first, start, end = self.pieces[index]
        return (start + offset - first, start + offset - first + 1) if end is None else (start, end)


def _meaning(escape: re.Match[str]) -> str:
    """What an escape stands for, as the bytes of its UTF-8."""
    kind = escape.lastgroup or ""
    match kind:
        case "percent":
            return chr(int(escape[kind], 16)).translate(_FOLDED)
        case "name" | "bare":
            from html.entities import html5  # takes a millisecond to load

            character = html5.get(f"{escape[kind]};", f"&{escape[kind]};")
        case "low":
            character = bytes.fromhex(escape["high"] + escape["low"]).decode("utf-16-be")
        case "decimal":
            character = _character(int(escape[kind]))
        case "hexadecimal" | "unicode":
            character = _character(int(escape[kind], 16))
        case _:
            return escape[kind]
    return character.translate(_FOLDED).encode(errors="surrogatepass").decode("latin-1")


def _character(code: int) -> str:
    return chr(code) if code <= 0x10FFFF else ""


def _without_patterns(text: str) -> str:
    if "://" in text:
        text = _WORD.sub(_without_url_secrets, text)
    return _SECRETS.sub(lambda found: f"{found['name'] or ''}***", text)


def _without_url_secrets(word: "re.Match[str]") -> str:
    """One word without the query and the users of the URLs in it."""
    text = word[0]
    if "://" not in text:
        return text
    head, mark, _ = text.partition("?")
    if mark and "://" in head:
        text = f"{head}?***"
    return _USER.sub("***@", text) if "@" in text else text


def _one_line(text: str) -> str:
    """The text in one line, its control characters spelled out."""
    text = " ".join(text.split())
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _spelled_out(char) for char in text)


def _spelled_out(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
