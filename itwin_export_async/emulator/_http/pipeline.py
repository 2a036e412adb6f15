"""The way of every request: limits, faults, the services themselves, oddities, and the record."""

from collections.abc import Hashable
from urllib.parse import urlsplit

from itwin_export_async._protocol.messages import Request, Response
from itwin_export_async.emulator._audit.auditor import Auditor
from itwin_export_async.emulator._handlers.identity import admit
from itwin_export_async.emulator._http.exchange import Exchange
from itwin_export_async.emulator._http.messages import ApiError, dated, length_of
from itwin_export_async.emulator._http.request_log import RequestLog, RequestRecord
from itwin_export_async.emulator._http.router import route
from itwin_export_async.emulator._http.routes import UNKNOWN, Route
from itwin_export_async.emulator._middleware.chaos import Chaos, ChaosInjector
from itwin_export_async.emulator._middleware.fault_injection import Script
from itwin_export_async.emulator._middleware.faults import Fault
from itwin_export_async.emulator._middleware.quirks import QuirkSet
from itwin_export_async.emulator._middleware.rate_limiter import Limits, too_many_calls
from itwin_export_async.emulator._state.platform import Call, Platform


class Gateway:
    """Leads requests to the services of one world, and their answers back.

    `limits`, `chaos` and `oddities` may be changed at any time.
    """

    def __init__(self, world: Platform) -> None:
        self.world = world
        self.limits: Limits | None = None
        self.oddities = QuirkSet()
        self.script = Script()
        self.judge = Auditor(world)
        self.journal = RequestLog()
        self._chaos: Chaos | None = None
        self._turmoil: ChaosInjector | None = None

    @property
    def chaos(self) -> Chaos | None:
        """What goes wrong by chance, None for nothing."""
        return self._chaos

    @chaos.setter
    def chaos(self, chaos: Chaos | None) -> None:
        self._chaos = chaos
        self._turmoil = None if chaos is None else ChaosInjector(chaos, self.world)

    def begin(
        self, request: Request, *, sent: int, leeway: float = 0.0, caller: Hashable = None
    ) -> Exchange:
        """What comes of a request, sent at this place in the order of events.

        The judge is still to be told where the answer got: `delivered` or `lost`.
        """
        exchange = Exchange(
            request=request, at=self.world.clock.now(), sent=sent, leeway=leeway, caller=caller
        )
        try:
            found, call = route(request, self.world.addresses, now=exchange.at)
        except ConnectionRefusedError as nobody:
            exchange.said = nobody
            self.judge.arrived(exchange)
        else:
            self._serve(exchange, found, call)
        self._record(exchange)
        return exchange

    def delivered(self, exchange: Exchange) -> None:
        """The answer has reached the client whole."""
        self.judge.delivered(exchange)

    def lost(self, exchange: Exchange) -> None:
        """The answer has not reached the client, or not whole."""
        self.judge.lost(exchange)

    def _serve(self, exchange: Exchange, found: Route, call: Call) -> None:
        exchange.operation, exchange.service = found.operation, found.service
        exchange.call = call
        self.judge.arrived(exchange)
        refusal = self._over_limit(exchange, found)
        if refusal is not None:
            exchange.truth = exchange.said = refusal
        else:
            self._meet(exchange, found, call, self._next_fault(found, call))
        self.judge.done(exchange)
        if isinstance(exchange.said, Response):
            date = self.world.clock.http_date(exchange.at)
            answer = dated(exchange.said, exchange.request, date)
            exchange.said = self.oddities.applied(answer, found)

    def _over_limit(self, exchange: Exchange, found: Route) -> Response | None:
        """The 429 of the tier, if there is no room for this call."""
        if self.limits is None or not found.guarded:
            return None
        wait = self.limits.take(exchange.at)
        if not wait:
            return None
        self.judge.over_limit(exchange, wait)
        return too_many_calls(
            wait,
            tier=self.limits.tier,
            api=found.path[0],
            operation=found.operation,
            client_id=self.world.client_id,
        )

    def _next_fault(self, found: Route, call: Call) -> Fault | None:
        scripted = self.script.next(found.operation)
        if scripted is not None or self._turmoil is None or found is UNKNOWN:
            return scripted
        return self._turmoil.next(found, call)

    def _meet(self, exchange: Exchange, found: Route, call: Call, fault: Fault | None) -> None:
        """Do what is asked, and say so, as far as the fault lets it."""
        if fault is None or fault.has_effect:
            exchange.truth = self._truth(found, call)
        exchange.said = exchange.truth
        if fault is None:
            return
        exchange.fault, exchange.late = fault.name, fault.late
        if fault.instead is not None:
            exchange.said, exchange.is_true = fault.instead, False
        if fault.breaks_at is not None and isinstance(exchange.said, Response):
            exchange.stop = fault.breaks_at(length_of(exchange.said))

    def _truth(self, found: Route, call: Call) -> Response:
        try:
            if found.guarded:
                admit(self.world, call)
            return found.answer(self.world, call)
        except ApiError as refused:
            return refused.response

    def _record(self, exchange: Exchange) -> None:
        answer = exchange.answer
        self.journal.add(
            RequestRecord(
                number=self.journal.next_number(),
                at=exchange.at,
                operation=exchange.operation,
                method=exchange.request.method,
                path=urlsplit(exchange.request.url).path,
                status=None if answer is None else answer.status,
                answered_at=None if answer is None else exchange.at + exchange.late,
                fault=exchange.fault,
            )
        )
