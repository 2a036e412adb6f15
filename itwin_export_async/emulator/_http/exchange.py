"""One request and its answer, from arrival to where the answer got."""

from collections.abc import Hashable

from attrs import define

from itwin_export_async._protocol.messages import Request, Response
from itwin_export_async.emulator._http.messages import header_of, length_of
from itwin_export_async.emulator._middleware.faults import Outcome
from itwin_export_async.emulator._state.platform import Call


@define(kw_only=True, eq=False)
class Exchange:
    """One request on its way through the services.

    `at` is when it arrived; `sent` its place in the order of all that clients did and were told
    (see `Auditor`). `truth` is what the services did and said, None where they did nothing; `said` is
    what goes back, `is_true` unless something else was put in its place. After `stop` bytes of its
    body the connection breaks, None means never; all of it comes `late` by so many seconds.
    `leeway` are the seconds for which the request may have been on its way unseen. `caller` is the
    one who waits for the answer, None where that cannot be seen.
    """

    request: Request
    at: float
    sent: int
    operation: str = "unknown"
    service: str = ""
    leeway: float = 0.0
    caller: Hashable = None
    call: Call | None = None
    truth: Response | None = None
    is_true: bool = True
    said: Outcome | None = None
    stop: int | None = None
    late: float = 0.0
    fault: str | None = None

    @property
    def answer(self) -> Response | None:
        """What goes back, None when the connection breaks before."""
        return self.said if isinstance(self.said, Response) else None

    @property
    def breaks(self) -> bool:
        """Whether the connection breaks before the answer has come whole."""
        answer = self.answer
        return answer is None or (self.stop is not None and self.stop < length_of(answer))

    @property
    def token(self) -> str:
        """The bearer token it was sent with, or an empty string."""
        scheme, _, token = header_of(self.request, "Authorization").partition(" ")
        return token if scheme.lower() == "bearer" else ""
