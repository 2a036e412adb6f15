"""The ids of the platform: plain GUIDs, and pairs of them in 43 characters."""

import base64
import binascii
from random import Random
from uuid import UUID


def new_guid(chance: Random) -> str:
    """A random GUID, in the usual 36 characters."""
    return str(UUID(int=chance.getrandbits(128), version=4))


def new_hash(chance: Random) -> str:
    """A random id of 40 hexadecimal digits, as a part of the platform has them."""
    return f"{chance.getrandbits(160):040x}"


def composite(container: str, own: str) -> str:
    """The 43-character id of a thing in a container: both GUIDs, base64url, without padding."""
    both = UUID(container).bytes_le + UUID(own).bytes_le
    return base64.urlsafe_b64encode(both).decode().rstrip("=")


def pair(composite_id: str) -> tuple[str, str] | None:
    """The GUIDs of container and thing, or None when this is no composite id."""
    try:
        both = base64.b64decode(composite_id + "=", altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    if len(both) != 32:
        return None
    return str(UUID(bytes_le=both[:16])), str(UUID(bytes_le=both[16:]))


def is_guid(text: str) -> bool:
    """Whether this is a GUID in the usual 36 characters."""
    try:
        return str(UUID(text)) == text.lower()
    except ValueError:
        return False
