"""One request and its answer, from arrival to delivery."""

from collections.abc import Hashable
from urllib.parse import urlsplit

from attrs import define

from itwin_export_async._protocol.messages import Request, Response
from itwin_export_async.emulator._http.messages import body_length, header_of
from itwin_export_async.emulator._middleware.fault_injection import Outcome
from itwin_export_async.emulator._state.platform import RequestContext


@define(kw_only=True, eq=False)
class Exchange:
    """One request on its way through the emulator.

    - `at` is when it arrived, `sent` its position in the order of events (see `Auditor`).
    - `handler_response` is what its handler returned, None if the handler was not called.
      `response` is what goes back. It is `is_unaltered` unless a fault replaced it.
    - The connection breaks after `truncate_at` bytes of the body; None means never.
    - The answer is delayed by `delay` seconds.
    - `leeway` is for how many seconds the request may have been on its way unnoticed.
    - `caller` identifies the task that waits for the answer, None if it is not known.
    """

    request: Request
    at: float
    sent: int
    operation: str = "unknown"
    service: str = ""
    leeway: float = 0.0
    caller: Hashable = None
    context: RequestContext | None = None
    handler_response: Response | None = None
    is_unaltered: bool = True
    response: Outcome | None = None
    truncate_at: int | None = None
    delay: float = 0.0
    fault: str | None = None

    @property
    def answer(self) -> Response | None:
        """The response that goes back, None if the connection breaks before it."""
        return self.response if isinstance(self.response, Response) else None

    @property
    def breaks(self) -> bool:
        """Whether the connection breaks before the end of the answer."""
        answer = self.answer
        return answer is None or (
            self.truncate_at is not None and self.truncate_at < body_length(answer)
        )

    @property
    def path(self) -> str:
        """The path of the request in its service, or in its URL if no service knows it."""
        if self.context is not None and self.context.path:
            return self.context.path
        try:
            return urlsplit(self.request.url).path
        except ValueError:
            return self.request.url.partition("?")[0]

    @property
    def token(self) -> str:
        """The bearer token of the request, an empty string if it has none."""
        scheme, _, token = header_of(self.request, "Authorization").partition(" ")
        return token if scheme.lower() == "bearer" else ""
