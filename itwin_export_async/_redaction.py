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
_ESCAPE = re.compile(
    r"%(?:25)*(?P<percent>[0-9a-f]{2})"
    r"|(?:&|\\+u0026)(?:amp;)*"
    r"(?:#(?P<decimal>[0-9]{1,9});?|#x(?P<hexadecimal>[0-9a-f]{1,8});?|(?P<name>[a-z]{1,40});)"
    r"|\\+u(?P<high>d[89ab][0-9a-f]{2})\\+u(?P<low>d[c-f][0-9a-f]{2})"
    r"|\\+u(?P<unicode>[0-9a-f]{4})"
    r"|\\+(?P<character>[^\\]?)"
    r"|(?P<control>[\b\f\n\r\t])",
    re.IGNORECASE,
)
# however it is escaped, a backslash counts for nothing, and a control character for its letter
_FOLDED = str.maketrans({"\\": "", "\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t"})
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
    """The text without these values, however they are escaped."""
    units = text.encode(errors="surrogatepass").decode("latin-1")
    struck = _struck_out(units, secrets)
    return text if struck == units else struck.encode("latin-1").decode(errors="surrogatepass")


def struck_out_bytes(body: bytes, secrets: Iterable[Secret]) -> bytes:
    """The body without these values, however they are escaped."""
    units = body.decode("latin-1")
    struck = _struck_out(units, secrets)
    return body if struck == units else struck.encode("latin-1")


def _struck_out(units: str, secrets: Iterable[Secret]) -> str:
    """The same for a text whose characters are the bytes of its UTF-8."""
    values = [one.reveal().encode(errors="surrogatepass").decode("latin-1") for one in secrets]
    values = [value for value in values if len(value) >= MIN_SECRET]
    for value in values:
        units = units.replace(value, "***")
    head, rest = units[:MAX_ESCAPED], units[MAX_ESCAPED:]
    if not values or not _ESCAPE.search(head):
        return units
    plain = Unescaped.of(head)
    spans = sorted(
        span
        for value in {Unescaped.of(value).text for value in values}
        if 2 * len(value) >= MIN_SECRET
        for span in plain.spans_of(value)
    )
    kept, end = [], 0
    for start, stop in spans:
        if start >= end:
            kept += [head[end:start], "***"]
        end = max(end, stop)
    return "".join([*kept, head[end:], rest])


@frozen
class Unescaped:
    """A text without the escapes of JSON, URLs and HTML.

    `pieces` say where it comes from: the offset of a piece in `text`, where the piece begins in the
    escaped text, and where it ends there; None for a piece that was not escaped.
    """

    text: str
    pieces: list[tuple[int, int, int | None]]

    @classmethod
    def of(cls, escaped: str) -> "Unescaped":
        """Without its escapes, also those of escapes."""
        texts: list[str] = []
        pieces: list[tuple[int, int, int | None]] = [(0, 0, None)]
        offset = end = 0
        for escape in _ESCAPE.finditer(escaped):
            plain = _meaning(escape)
            texts += [escaped[end : escape.start()], plain]
            offset += escape.start() - end
            end = escape.end()
            pieces.append((offset, escape.start(), end))
            offset += len(plain)
            pieces.append((offset, end, None))
        return cls("".join([*texts, escaped[end:]]), pieces)

    def spans_of(self, value: str) -> Iterator[tuple[int, int]]:
        """Where the value begins and ends in the escaped text, each time that it occurs."""
        at = self.text.find(value)
        while at >= 0:
            yield self._source(at)[0], self._source(at + len(value) - 1)[1]
            at = self.text.find(value, at + len(value))

    def _source(self, offset: int) -> tuple[int, int]:
        """Where a character begins and ends in the escaped text."""
        index = bisect_right(self.pieces, offset, key=lambda piece: piece[0]) - 1
        first, start, end = self.pieces[index]
        return (start + offset - first, start + offset - first + 1) if end is None else (start, end)


def _meaning(escape: re.Match[str]) -> str:
    """What an escape stands for, as the bytes of its UTF-8."""
    if (byte := escape["percent"]) is not None:
        return chr(int(byte, 16)).translate(_FOLDED)
    if (name := escape["name"]) is not None:
        from html.entities import html5  # takes a millisecond to load

        character = html5.get(f"{name};", escape[0])
    elif (high := escape["high"]) is not None:
        character = bytes.fromhex(high + escape["low"]).decode("utf-16-be")
    elif (decimal := escape["decimal"]) is not None:
        character = _character(int(decimal))
    elif (digits := escape["hexadecimal"] or escape["unicode"]) is not None:
        character = _character(int(digits, 16))
    else:
        return (escape["character"] or escape["control"] or "").translate(_FOLDED)
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
