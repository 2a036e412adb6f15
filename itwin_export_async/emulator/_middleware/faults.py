"""What befalls requests on their way, and answers on their way back."""

from collections.abc import Callable
from typing import TypeAlias

from attrs import frozen

from itwin_export_async._protocol.messages import Response

Outcome: TypeAlias = Response | ConnectionError | TimeoutError


@frozen(kw_only=True)
class Fault:
    """What befalls one request.

    `instead` is what comes in place of the true answer, None for that itself; `has_effect` whether
    the request is done all the same. `breaks_at` says, for the length of the answer's body, after
    how many bytes the connection breaks. The answer, or the break, comes `late` by so many seconds.
    """

    name: str
    instead: Outcome | None = None
    has_effect: bool = True
    breaks_at: Callable[[int], int] | None = None
    late: float = 0.0
