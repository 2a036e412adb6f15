"""The way of every request: rate limit (429), faults, handler, quirks, and the log."""

from collections.abc import Hashable

from itwin_export_async._protocol.messages import Request, Response
from itwin_export_async.emulator._audit.auditor import Auditor
from itwin_export_async.emulator._handlers import ROUTES
from itwin_export_async.emulator._handlers.identity import authenticate
from itwin_export_async.emulator._http.exchange import Exchange
from itwin_export_async.emulator._http.messages import ApiError, body_length, with_date
from itwin_export_async.emulator._http.request_log import RequestLog, RequestRecord
from itwin_export_async.emulator._http.router import Route, Router
from itwin_export_async.emulator._middleware.chaos import Chaos, ChaosInjector
from itwin_export_async.emulator._middleware.fault_injection import Fault, FaultQueue
from itwin_export_async.emulator._middleware.quirks import QuirkSet
from itwin_export_async.emulator._middleware.rate_limiter import (
    RateLimiter,
    rate_limit_exceeded,
)
from itwin_export_async.emulator._state.platform import Endpoints, Platform, RequestContext

ROUTER = Router(ROUTES)


class Pipeline:
    """Passes requests to the services of one platform, and their answers back.

    `rate_limiter` and `quirks` may be replaced at any time.
    """

    def __init__(self, platform: Platform) -> None:
        self.rate_limiter: RateLimiter | None = None
        self.quirks = QuirkSet()
        self._chaos: Chaos | None = None
        self.reset(platform)

    def reset(self, platform: Platform) -> None:
        """Begin again with another platform: no requests, no violations, no injected faults."""
        self.platform = platform
        self.faults = FaultQueue()
        self.auditor = Auditor(platform)
        self.log = RequestLog(platform.settings)
        if self.rate_limiter is not None:
            self.rate_limiter = RateLimiter(self.rate_limiter.windows, tier=self.rate_limiter.tier)
        self.set_chaos(self._chaos)

    def set_chaos(self, chaos: Chaos | None) -> None:
        """Set the rates of random faults; None for no such faults."""
        self._chaos = chaos
        self._chaos_injector = None if chaos is None else ChaosInjector(chaos, self.platform)

    def dispatch(
        self,
        request: Request,
        *,
        sent: int,
        leeway: float = 0.0,
        caller: Hashable = None,
        endpoints: Endpoints | None = None,
    ) -> Exchange:
        """Process a request that was sent at this position in the order of events.

        The caller reports afterwards whether the answer arrived: `delivered` or `lost`.
        """
        exchange = Exchange(
            request=request, at=self.platform.clock.now(), sent=sent, leeway=leeway, caller=caller
        )
        try:
            route, context = ROUTER.match(request, self.platform, endpoints, now=exchange.at)
        except ConnectionRefusedError as refused:
            exchange.response = refused
            self.auditor.arrived(exchange)
        else:
            self._process(exchange, route, context)
        self._record(exchange)
        return exchange

    def delivered(self, exchange: Exchange) -> None:
        """Report that the whole answer has reached the client."""
        self.auditor.delivered(exchange)

    def lost(self, exchange: Exchange) -> None:
        """Report that the answer has not reached the client, or only a part of it."""
        self.auditor.lost(exchange)

    def _process(self, exchange: Exchange, route: Route, context: RequestContext) -> None:
        exchange.operation, exchange.service = route.operation, route.service
        exchange.context = context
        self.auditor.arrived(exchange)
        error_response = self._apply_rate_limit(exchange, route)
        if error_response is not None:
            exchange.handler_response = exchange.response = error_response
        else:
            self._apply_fault(exchange, route, context, self._next_fault(route, context))
        self.auditor.handled(exchange)
        if isinstance(exchange.response, Response):
            date = self.platform.clock.http_date(exchange.at)
            answer = with_date(exchange.response, exchange.request, date)
            exchange.response = self.quirks.apply(answer, route)

    def _apply_rate_limit(self, exchange: Exchange, route: Route) -> Response | None:
        """Return the 429 of the tier if its limit is reached."""
        if self.rate_limiter is None or not route.guarded:
            return None
        wait = self.rate_limiter.acquire(exchange.at)
        if not wait:
            return None
        self.auditor.over_limit(exchange, wait)
        return rate_limit_exceeded(
            wait,
            tier=self.rate_limiter.tier,
            api=route.path[0],
            operation=route.operation,
            client_id=self.platform.client_id,
        )

    def _next_fault(self, route: Route, context: RequestContext) -> Fault | None:
        injected = self.faults.next(route.operation)
        if injected is not None or self._chaos_injector is None or route.operation == "unknown":
            return injected
        return self._chaos_injector.next(route, context)

    def _apply_fault(
        self, exchange: Exchange, route: Route, context: RequestContext, fault: Fault | None
    ) -> None:
        """Call the handler and set the response, as far as the fault permits."""
        if fault is None or fault.has_effect:
            exchange.handler_response = self._call_handler(route, context)
        exchange.response = exchange.handler_response
        if fault is None:
            return
        exchange.fault, exchange.delay = fault.name, fault.delay
        if fault.instead is not None:
            exchange.response, exchange.is_unaltered = fault.instead, False
        if fault.truncate_at is not None and isinstance(exchange.response, Response):
            exchange.truncate_at = fault.truncate_at(body_length(exchange.response))

    def _call_handler(self, route: Route, context: RequestContext) -> Response:
        try:
            if route.guarded:
                authenticate(self.platform, context)
            return route.handler(self.platform, context)
        except ApiError as refused:
            return refused.response

    def _record(self, exchange: Exchange) -> None:
        answer = exchange.answer
        self.log.add(
            RequestRecord(
                number=self.log.next_number,
                at=exchange.at,
                operation=exchange.operation,
                method=exchange.request.method,
                path=exchange.path,
                status=None if answer is None else answer.status,
                answered_at=None if answer is None else exchange.at + exchange.delay,
                fault=exchange.fault,
            )
        )
