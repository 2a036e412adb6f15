"""The platform's ids: GUIDs, SHA-1 ids, and 43-character ids that hold two GUIDs."""

import base64
import binascii
from random import Random
from uuid import UUID

USER_ID = "1140f95b-1ba0-49d9-bbf4-b53e54d80387"  # of the user that created everything


def new_guid(rng: Random) -> str:
    """Return a random GUID in its 36-character form."""
    return str(UUID(int=rng.getrandbits(128), version=4))


def new_sha1_id(rng: Random) -> str:
    """Return a random id of 40 hexadecimal digits, as synchronization runs and changesets have."""
    return f"{rng.getrandbits(160):040x}"


def encode_storage_id(container: str, own: str) -> str:
    """Return the 43-character id of an item: both GUIDs in base64url, without padding."""
    both = UUID(container).bytes_le + UUID(own).bytes_le
    return base64.urlsafe_b64encode(both).decode().rstrip("=")


def decode_storage_id(storage_id: str) -> tuple[str, str] | None:
    """Return the GUIDs of the container and of the item, None if the id has another form."""
    try:
        both = base64.b64decode(storage_id + "=", altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    if len(both) != 32:
        return None
    return str(UUID(bytes_le=both[:16])), str(UUID(bytes_le=both[16:]))


def is_guid(text: str) -> bool:
    """Whether the text is a GUID in its 36-character form."""
    try:
        return str(UUID(text)) == text.lower()
    except ValueError:
        return False
