"""Chaos: random faults at given rates, such as storms of 429 and lost answers."""

from collections.abc import Callable
from random import Random
from typing import Any

from attrs import field, frozen, validators

from itwin_export_async._protocol.messages import Response
from itwin_export_async.emulator._http.messages import error, header_of, json_response
from itwin_export_async.emulator._http.router import Route
from itwin_export_async.emulator._middleware.fault_injection import Fault
from itwin_export_async.emulator._middleware.rate_limiter import rate_limit_exceeded
from itwin_export_async.emulator._state.platform import Platform, RequestContext

_rate: Any = [validators.ge(0.0), validators.le(1.0)]

_STARTS = {
    "create_run": "ConflictWithAnotherIModelRequest",
    "start_synchronization": "IModelAlreadyProcessingRequest",
    "start_manifest_synchronization": "IModelAlreadyProcessingRequest",
}
_STORM_TIER = "Standard"
_POLLS = frozenset({"get_run", "get_synchronization", "get_manifest_synchronization"})
_MIN_TOKEN_LIFE = 60.0  # seconds; a client may give up when two tokens in a row are refused at once
_BLOBS = frozenset({"get_blob", "put_blob", "put_block", "put_block_list"})


def _span(_instance: object, attribute: Any, value: tuple[float, float]) -> None:
    if len(value) != 2 or not 0 <= value[0] <= value[1]:
        raise ValueError(f"{attribute.name} must be a pair (shortest, longest), got {value!r}")


@frozen(kw_only=True)
class Chaos:
    """The rates of random faults. Equal seeds and equal requests meet equal faults.

    Each rate is a share of the requests that the fault can apply to:

    - `rate_limit_storms` begin a period in which each call of the APIs gets a 429 with
      `Retry-After`. It lasts `storm_seconds`.
    - `errors` are 500, 502, 503 and 504 in several forms, before or after the effect.
    - `resets` break the connection before the effect, `losses` after it.
    - `truncations` break it within the body of the answer.
    - `delays` delay the answer by `delay_seconds`, possibly until the client has given up.
    - `token_deaths` end a token before its expiry, after a minute at the earliest.
    - `races` are 409 for the start of a run.
    - `unknown_young_runs` are 404 for a run that is at most `youth` old.
    - `expired_signatures` reject a signed URL as expired.

    Spans are (shortest, longest) in seconds.
    """

    seed: int = 0
    rate_limit_storms: float = field(default=0.002, validator=_rate)
    errors: float = field(default=0.02, validator=_rate)
    resets: float = field(default=0.01, validator=_rate)
    losses: float = field(default=0.01, validator=_rate)
    truncations: float = field(default=0.01, validator=_rate)
    delays: float = field(default=0.02, validator=_rate)
    token_deaths: float = field(default=0.002, validator=_rate)
    races: float = field(default=0.02, validator=_rate)
    unknown_young_runs: float = field(default=0.05, validator=_rate)
    expired_signatures: float = field(default=0.02, validator=_rate)
    storm_seconds: tuple[float, float] = field(default=(1.0, 15.0), validator=_span)
    delay_seconds: tuple[float, float] = field(default=(1.0, 45.0), validator=_span)
    youth: float = field(default=20.0, validator=validators.ge(0.0))


class ChaosInjector:
    """Draws the faults of one emulator."""

    def __init__(self, chaos: Chaos, platform: Platform) -> None:
        self._chaos = chaos
        self._platform = platform
        self._rng = Random(f"chaos of {chaos.seed}")
        self._storm_ends = 0.0
        self._kinds: tuple[tuple[float, Callable[[Route, RequestContext], Fault | None]], ...] = (
            (chaos.rate_limit_storms, self._begin_storm),
            (chaos.errors, self._error),
            (chaos.resets, self._reset),
            (chaos.losses, self._lost_answer),
            (chaos.truncations, self._truncation),
            (chaos.delays, self._delay),
            (chaos.token_deaths, self._token_revocation),
            (chaos.races, self._start_conflict),
            (chaos.unknown_young_runs, self._unknown_young_run),
            (chaos.expired_signatures, self._expired_signature),
        )

    def next(self, route: Route, context: RequestContext) -> Fault | None:
        """Return the fault of this request; mostly None."""
        if route.service == "api" and context.now < self._storm_ends:
            return self._storm(route, context)
        roll = self._rng.random()
        for rate, kind in self._kinds:
            if roll < rate:
                return kind(route, context)
            roll -= rate
        return None

    def _begin_storm(self, route: Route, context: RequestContext) -> Fault | None:
        if route.service != "api":
            return None
        self._storm_ends = context.now + self._rng.uniform(*self._chaos.storm_seconds)
        return self._storm(route, context)

    def _storm(self, route: Route, context: RequestContext) -> Fault:
        response = rate_limit_exceeded(
            self._storm_ends - context.now,
            tier=_STORM_TIER,
            api=route.path[0],
            operation=route.operation,
            client_id=self._platform.client_id,
        )
        return Fault(name="storm", instead=response, has_effect=False)

    def _error(self, _route: Route, _context: RequestContext) -> Fault:
        status = self._rng.choice((500, 502, 503, 504))
        headers = {}
        if self._rng.random() < 0.5:
            headers["Retry-After"] = str(self._rng.randint(1, 5))
        form = self._rng.choice((_empty, _html, _json))
        was_rejected = status == 503 and bool(headers)
        return Fault(
            name=str(status),
            instead=form(status, headers),
            has_effect=not was_rejected and self._rng.random() < 0.5,
        )

    def _reset(self, _route: Route, _context: RequestContext) -> Fault:
        broken = ConnectionResetError("the connection was reset")
        return Fault(name="reset", instead=broken, has_effect=False)

    def _lost_answer(self, _route: Route, _context: RequestContext) -> Fault:
        return Fault(name="lost answer", instead=ConnectionResetError("the connection was reset"))

    def _truncation(self, _route: Route, _context: RequestContext) -> Fault:
        share = self._rng.random()
        return Fault(name="truncated answer", truncate_at=lambda length: int(share * length))

    def _delay(self, _route: Route, _context: RequestContext) -> Fault:
        return Fault(name="late answer", delay=self._rng.uniform(*self._chaos.delay_seconds))

    def _token_revocation(self, route: Route, context: RequestContext) -> Fault | None:
        token = header_of(context.request, "Authorization").partition(" ")[2]
        known = self._platform.tokens.get(token)
        if not route.guarded or known is None or context.now - known.issued_at < _MIN_TOKEN_LIFE:
            return None
        del self._platform.tokens[token]
        return Fault(name="dead token")

    def _start_conflict(self, route: Route, _context: RequestContext) -> Fault | None:
        if route.operation not in _STARTS:
            return None
        conflict = error(
            409,
            _STARTS[route.operation],
            "This request is already being processed for this iModel.",
        )
        return Fault(name="race", instead=conflict, has_effect=False)

    def _unknown_young_run(self, route: Route, context: RequestContext) -> Fault | None:
        if route.operation not in _POLLS:
            return None
        run = self._platform.run(*context.ids)
        if run is None or context.now - run.starts_at > self._chaos.youth:
            return None
        missing = error(404, "ConnectionRunNotFound", "Requested Connection Run not available.")
        return Fault(name="young run", instead=missing, has_effect=False)

    def _expired_signature(self, route: Route, _context: RequestContext) -> Fault | None:
        if route.operation not in _BLOBS:
            return None
        headers = {"Content-Type": "application/xml", "x-ms-error-code": "AuthenticationFailed"}
        body = b"<?xml version='1.0'?><Error><Code>AuthenticationFailed</Code></Error>"
        response = Response(status=403, headers=headers, body=body)
        return Fault(name="expired address", instead=response, has_effect=False)


def _empty(status: int, headers: dict[str, str]) -> Response:
    return Response(status=status, headers=headers)


def _html(status: int, headers: dict[str, str]) -> Response:
    body = f"<html><head><title>{status}</title></head><body><h1>{status}</h1></body></html>"
    return Response(
        status=status, headers=headers | {"Content-Type": "text/html"}, body=body.encode()
    )


def _json(status: int, headers: dict[str, str]) -> Response:
    document = {
        "error": {"code": "InternalServerError", "message": "An unexpected error happened."}
    }
    answer = json_response(status, document)
    return Response(status=status, headers={**answer.headers, **headers}, body=answer.body)
