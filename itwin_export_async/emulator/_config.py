"""The settings of an emulator, checked when they are given and when they are changed."""

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from math import inf
from typing import Any

from attrs import Attribute, define, field

RunSeconds = float | tuple[float, float] | None


def _number(lowest: float, *, highest: float = inf, above: bool = False) -> Callable[..., None]:
    """Return a validator for a number; `above` excludes `lowest` itself."""

    def check(_instance: object, attribute: "Attribute[float]", value: object) -> None:
        check_number(attribute.name, value, lowest=lowest, highest=highest, above=above)

    return check


def check_number(
    name: str, value: object, *, lowest: float, highest: float = inf, above: bool = False
) -> None:
    """Raise `TypeError` or `ValueError` unless the value is a number within the bounds."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if value < lowest or value > highest or value != value or (above and value == lowest):
        bound = f"greater than {lowest:g}" if above else f"at least {lowest:g}"
        limit = "" if highest == inf else f" and at most {highest:g}"
        raise ValueError(f"{name} must be {bound}{limit}, got {value!r}")


def check_choice(name: str, value: object, known: Iterable[str]) -> None:
    """Raise `ValueError` unless the value is one of the known ones."""
    names = sorted(known) if isinstance(known, frozenset) else list(known)
    if value not in names:
        similar = get_close_matches(str(value), names, n=1)
        hint = f" (did you mean {similar[0]}?)" if similar else ""
        raise ValueError(f"unknown {name} {value!r}{hint}: use one of {', '.join(names)}")


def _integer(lowest: int, highest: float = inf) -> Callable[..., None]:
    def check(_instance: object, attribute: "Attribute[int]", value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{attribute.name} must be an integer, got {value!r}")
        check_number(attribute.name, value, lowest=lowest, highest=highest)

    return check


def _flag(_instance: object, attribute: "Attribute[bool]", value: object) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{attribute.name} must be True or False, got {value!r}")


def _run_seconds(_instance: object, attribute: "Attribute[Any]", value: object) -> None:
    name = attribute.name
    if value is None:
        return
    if not isinstance(value, tuple):
        check_number(name, value, lowest=0)
        return
    if len(value) != 2:
        raise ValueError(f"{name} must be a number or a pair (lowest, highest), got {value!r}")
    for each in value:
        check_number(name, each, lowest=0)
    if value[0] > value[1]:
        raise ValueError(f"{name} must be a pair (lowest, highest), got {value!r}")


@define(kw_only=True, eq=False, repr=False)
class Settings:
    """How the emulated services behave. Times are in seconds.

    Each setting is an argument of `Emulator` and an attribute that can be changed at any time.

    - `speed` divides the durations of runs.
    - `run_seconds` is the duration of a run at speed 1: a number, a pair (lowest, highest) to draw
      from, or None for a realistic distribution around seven minutes.
    - `latency` is the duration of each request in memory.
    - `token_lifetime` is the life of access tokens, `download_lifetime` that of signed URLs.
    - `create_conflict_window` is how long after its start a run causes 409 for another start of the
      iModel. Afterwards the answer is 303.
    - `connection_visibility_delay` is how long a new connection is absent from lists.
    - `output_visibility_delay` is how long an output cannot be read after the end of its run. It
      applies to runs that start later.
    - `accept_plain_file_ids` says whether Storage knows an output by the GUID that its run names.
      False leaves only the composite id.
    - `user_authorized` is the user's consent. Without it a run of a `User` connection fails. (For
      synchronizations this is documented, for exports it is assumed.)
    - `forbid_repeat_runs` makes a second start of a successful export a violation.
    - `max_put_bytes` is the largest body of one PUT to the blob store, `max_stored_bytes` the sum
      of all uploaded bytes.
    - `max_recorded_requests` is how many of the latest requests are kept in `requests`.
    - `page_size` is the number of items in a page of the Export API without `$top`;
      `storage_page_size`, `synchronization_page_size` and `imodels_page_size` are those of the
      other services.
    - `webhook_delay` is how long after its event a delivery is sent, `webhook_repeats` how many
      times it is sent again. `webhook_tampering` changes each body after it was signed.
    """

    speed: float = field(default=1.0, validator=_number(0, above=True))
    run_seconds: RunSeconds = field(default=None, validator=_run_seconds)
    latency: float = field(default=0.01, validator=_number(0))
    token_lifetime: float = field(default=3600.0, validator=_number(0))
    download_lifetime: float = field(default=3600.0, validator=_number(0))
    create_conflict_window: float = field(default=0.0, validator=_number(0))
    connection_visibility_delay: float = field(default=0.0, validator=_number(0))
    output_visibility_delay: float = field(default=0.0, validator=_number(0))
    accept_plain_file_ids: bool = field(default=True, validator=_flag)
    user_authorized: bool = field(default=True, validator=_flag)
    forbid_repeat_runs: bool = field(default=False, validator=_flag)
    max_put_bytes: int = field(default=256 * 1024**2, validator=_integer(1))
    max_stored_bytes: int = field(default=1024**3, validator=_integer(1))
    max_recorded_requests: int = field(default=100_000, validator=_integer(1))
    page_size: int = field(default=50, validator=_integer(1, 1000))
    storage_page_size: int = field(default=100, validator=_integer(1, 1000))
    synchronization_page_size: int = field(default=100, validator=_integer(1, 1000))
    imodels_page_size: int = field(default=100, validator=_integer(1, 1000))
    webhook_delay: float = field(default=0.0, validator=_number(0))
    webhook_repeats: int = field(default=0, validator=_integer(0))
    webhook_tampering: bool = field(default=False, validator=_flag)
