"""What must not be shown: tokens, signatures, client secrets, and the queries of URLs.

Secrets travel as `Secret`, whose repr is silent. A text that a service sent passes through
`redacted` before it enters an error, a log or a file: known values are struck out first, then what
looks like a secret. Each pattern takes time in proportion to the text.
"""

import re
from collections.abc import Iterable
from functools import cached_property, lru_cache
from urllib.parse import parse_qsl

from attrs import field, frozen

MAX_TEXT = 500  # characters of one text of a service
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
_UNESCAPED = re.compile(r"[A-Za-z0-9._~-]+")  # in JSON, URLs and HTML
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

    def struck_out(self, text: str) -> str:
        """The text without this value, however a service has escaped it."""
        if len(self._value) < MIN_SECRET or self._unescaped_part not in text:
            return text
        return self._pattern.sub("***", text)

    @cached_property
    def _unescaped_part(self) -> str:
        """The longest part that nothing escapes: a text without it is done with at once."""
        return max(_UNESCAPED.findall(self._value), key=len, default="")

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile("".join(map(_escaped, self._value)))


@lru_cache(maxsize=256)
def _escaped(character: str) -> str:
    """A pattern of a character as it is, and as JSON, URLs and HTML escape it, also twice."""
    if _UNESCAPED.fullmatch(character):
        return re.escape(character)
    from html.entities import html5  # takes a millisecond to load

    code = ord(character)
    names = [name.rstrip(";") for name, value in html5.items() if value == character]
    references = "|".join([f"#0{{0,5}}{code}", f"(?i:#x0{{0,5}}{code:x})", *names])
    percent = "".join(f"%(?:25){{0,2}}{byte:02x}" for byte in character.encode(errors="replace"))
    units = character.encode("utf-16-be", errors="surrogatepass").hex()
    unicode = "".join(rf"\\{{1,2}}u{units[n : n + 4]}" for n in range(0, len(units), 4))
    return (
        rf"(?:\\{{0,3}}{re.escape(character)}|(?i:{percent})|(?i:{unicode})"
        rf"|(?:&|\\{{1,2}}u0026)(?:amp;){{0,2}}(?:{references});?)"
    )


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
    for secret in secrets:
        text = secret.struck_out(text)
    return text


def struck_out_bytes(body: bytes, secrets: Iterable[Secret]) -> bytes:
    """The body without these values, however they are escaped."""
    text = body.decode(errors="surrogateescape")
    struck = struck_out(text, secrets)
    return body if struck == text else struck.encode(errors="surrogateescape")


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
