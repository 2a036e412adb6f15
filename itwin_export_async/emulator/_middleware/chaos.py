"""Faults by chance: how much goes wrong, and what befalls the next request."""

from collections.abc import Callable
from random import Random
from typing import Any

from attrs import field, frozen, validators

from itwin_export_async._protocol.messages import Response
from itwin_export_async.emulator._http.messages import error, header_of, json_answer
from itwin_export_async.emulator._http.routes import Route
from itwin_export_async.emulator._middleware.faults import Fault
from itwin_export_async.emulator._middleware.rate_limiter import too_many_calls
from itwin_export_async.emulator._state.platform import Call, Platform

_rate: Any = [validators.ge(0.0), validators.le(1.0)]

_STARTS = {
    "create_run": "ConflictWithAnotherIModelRequest",
    "start_synchronization": "IModelAlreadyProcessingRequest",
}
_TIER = "Standard"
_LOOKS = frozenset({"get_run", "get_synchronization"})
_SHORTEST_LIFE = 60.0  # seconds; a token refused at once, and the next one too, is another matter
_BLOBS = frozenset({"get_blob", "put_blob", "put_block", "put_block_list"})


@frozen(kw_only=True)
class Chaos:
    """How much goes wrong by chance; equal seeds and equal requests meet equal faults.

    Each rate is the share of the requests it can befall. `storms` begin a time of some
    `storm_seconds` in which every call of the APIs gets a 429 with `Retry-After`; `errors` are 500,
    502, 503 and 504 in many shapes, before or after the effect; `resets` break the connection
    before the effect, `losses` after it; `truncations` break it within the answer's body; `delays`
    let an answer come some `delay_seconds` late, maybe after the client has given up;
    `token_deaths` end a token early, after a minute at the soonest; `races` are 409 for the start
    of a run; `unknown_young_runs` are 404 for a run of at most `youth` seconds; `expiries` are addresses of
    blobs that are refused as expired. Spans are (shortest, longest).
    """

    seed: int = 0
    storms: float = field(default=0.002, validator=_rate)
    errors: float = field(default=0.02, validator=_rate)
    resets: float = field(default=0.01, validator=_rate)
    losses: float = field(default=0.01, validator=_rate)
    truncations: float = field(default=0.01, validator=_rate)
    delays: float = field(default=0.02, validator=_rate)
    token_deaths: float = field(default=0.002, validator=_rate)
    races: float = field(default=0.02, validator=_rate)
    unknown_young_runs: float = field(default=0.05, validator=_rate)
    expiries: float = field(default=0.02, validator=_rate)
    storm_seconds: tuple[float, float] = (1.0, 15.0)
    delay_seconds: tuple[float, float] = (1.0, 45.0)
    youth: float = 20.0


class ChaosInjector:
    """What a `Chaos` brings upon one emulator."""

    def __init__(self, chaos: Chaos, world: Platform) -> None:
        self._chaos = chaos
        self._world = world
        self._chance = Random(f"chaos of {chaos.seed}")
        self._storm_ends = 0.0
        self._kinds: tuple[tuple[float, Callable[[Route, Call], Fault | None]], ...] = (
            (chaos.storms, self._storm),
            (chaos.errors, self._error),
            (chaos.resets, self._reset),
            (chaos.losses, self._loss),
            (chaos.truncations, self._truncation),
            (chaos.delays, self._delay),
            (chaos.token_deaths, self._token_death),
            (chaos.races, self._race),
            (chaos.unknown_young_runs, self._young_run),
            (chaos.expiries, self._expiry),
        )

    def next(self, found: Route, call: Call) -> Fault | None:
        """What befalls this request; mostly nothing."""
        if found.service == "api" and call.now < self._storm_ends:
            return self._stormy(found, call)
        roll = self._chance.random()
        for rate, kind in self._kinds:
            if roll < rate:
                return kind(found, call)
            roll -= rate
        return None

    def _storm(self, found: Route, call: Call) -> Fault | None:
        if found.service != "api":
            return None
        self._storm_ends = call.now + self._chance.uniform(*self._chaos.storm_seconds)
        return self._stormy(found, call)

    def _stormy(self, found: Route, call: Call) -> Fault:
        refusal = too_many_calls(
            self._storm_ends - call.now,
            tier=_TIER,
            api=found.path[0],
            operation=found.operation,
            client_id=self._world.client_id,
        )
        return Fault(name="storm", instead=refusal, has_effect=False)

    def _error(self, _found: Route, _call: Call) -> Fault:
        status = self._chance.choice((500, 502, 503, 504))
        headers = {}
        if self._chance.random() < 0.5:
            headers["Retry-After"] = str(self._chance.randint(1, 5))
        shape = self._chance.choice((_nothing, _page, _document))
        refused = status == 503 and bool(headers)
        return Fault(
            name=str(status),
            instead=shape(status, headers),
            has_effect=not refused and self._chance.random() < 0.5,
        )

    def _reset(self, _found: Route, _call: Call) -> Fault:
        broken = ConnectionResetError("the connection was reset")
        return Fault(name="reset", instead=broken, has_effect=False)

    def _loss(self, _found: Route, _call: Call) -> Fault:
        return Fault(name="lost answer", instead=ConnectionResetError("the connection was reset"))

    def _truncation(self, _found: Route, _call: Call) -> Fault:
        share = self._chance.random()
        return Fault(name="truncated answer", breaks_at=lambda length: int(share * length))

    def _delay(self, _found: Route, _call: Call) -> Fault:
        return Fault(name="late answer", late=self._chance.uniform(*self._chaos.delay_seconds))

    def _token_death(self, found: Route, call: Call) -> Fault | None:
        token = header_of(call.request, "Authorization").partition(" ")[2]
        known = self._world.tokens.get(token)
        if not found.guarded or known is None or call.now - known.issued_at < _SHORTEST_LIFE:
            return None
        del self._world.tokens[token]
        return Fault(name="dead token")

    def _race(self, found: Route, _call: Call) -> Fault | None:
        if found.operation not in _STARTS:
            return None
        lost = error(
            409,
            _STARTS[found.operation],
            "This request is already being processed for this iModel.",
        )
        return Fault(name="race", instead=lost, has_effect=False)

    def _young_run(self, found: Route, call: Call) -> Fault | None:
        if found.operation not in _LOOKS:
            return None
        is_export = found.operation == "get_run"
        service = self._world.exports if is_export else self._world.synchronizations
        run = service.run(*call.ids)
        if run is None or call.now - run.starts_at > self._chaos.youth:
            return None
        missing = error(404, "ConnectionRunNotFound", "Requested Connection Run not available.")
        return Fault(name="young run", instead=missing, has_effect=False)

    def _expiry(self, found: Route, _call: Call) -> Fault | None:
        if found.operation not in _BLOBS:
            return None
        headers = {"Content-Type": "application/xml", "x-ms-error-code": "AuthenticationFailed"}
        body = b"<?xml version='1.0'?><Error><Code>AuthenticationFailed</Code></Error>"
        refusal = Response(status=403, headers=headers, body=body)
        return Fault(name="expired address", instead=refusal, has_effect=False)


def _nothing(status: int, headers: dict[str, str]) -> Response:
    return Response(status=status, headers=headers)


def _page(status: int, headers: dict[str, str]) -> Response:
    body = f"<html><head><title>{status}</title></head><body><h1>{status}</h1></body></html>"
    return Response(
        status=status, headers=headers | {"Content-Type": "text/html"}, body=body.encode()
    )


def _document(status: int, headers: dict[str, str]) -> Response:
    said = {"error": {"code": "InternalServerError", "message": "An unexpected error happened."}}
    answer = json_answer(status, said)
    return Response(status=status, headers={**answer.headers, **headers}, body=answer.body)
