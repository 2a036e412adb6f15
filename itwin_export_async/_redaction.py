"""What must not be shown: the queries of addresses, tokens, signatures, client secrets."""

import re


def without_query(url: str) -> str:
    """The address without what may hold a secret: its query, fragment and user."""
    bare = re.split(r"[?#]", url, maxsplit=1)[0]
    return re.sub(r"(?<=//)[^/]*@", "", bare, count=1)


_SECRETS = re.compile(
    r"(?P<name>\bbearer\s+"
    r"|(?:(?<![a-z_])|(?<=%3f))(?:sig|access_token|refresh_token|client_secret|password)"
    r"[\"'\\]*\s*(?:[=:]|%(?:25)*3d)[\s\"'\\]*"
    r"|https?://[^\s?\"'<>]+\?)"
    r"[^\s\"'<>]+"
    r"|\beyJ[\w.-]{20,}",
    re.IGNORECASE,
)


def redacted(text: str) -> str:
    """The text without what looks like a token, a signature, a secret or an address's query."""
    return _SECRETS.sub(lambda found: f"{found['name'] or ''}***", text)
