"""The time limits of requests, which share one timer."""

import asyncio
from collections.abc import Callable

from itwin_export_async import RequestTimeout, RetryPolicy, Session
from itwin_export_async._http.sender import MIN_UPLOAD_SPEED
from itwin_export_async.transport import Request, Response
from tests.support.fakes import Answers, answer

GET = Request(method="GET", url="/x")
ONCE = RetryPolicy(attempts=1)


def now() -> float:
    return asyncio.get_running_loop().time()


class Silent(Answers):
    """Never answers; each request takes `seconds` to end after its cancellation."""

    def __init__(self, seconds: Callable[[Request], float] = lambda _: 0.0) -> None:
        super().__init__(answer(200))
        self.seconds = seconds

    async def send(self, request: Request, /) -> Response:
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(self.seconds(request))
        return await super().send(request)


async def ends_at(session: Session, request: Request, start: float) -> float:
    """When a request that is sent at `start` reaches its limit."""
    await asyncio.sleep(start - now())
    try:
        await session.send(request)
    except RequestTimeout:
        return now()
    raise AssertionError("the request has ended before its limit")


async def test_each_request_has_its_own_limit() -> None:
    async with Session("t", transport=Silent(), retry=ONCE) as session:
        ends = await asyncio.gather(*(ends_at(session, GET, start) for start in (0, 10, 10, 35)))
    assert ends == [30, 40, 40, 65]


async def test_limit_of_a_later_request_may_be_earlier() -> None:
    upload = Request(method="PUT", url="/x", body=bytes(60 * MIN_UPLOAD_SPEED))
    async with Session("t", transport=Silent(), retry=ONCE) as session:
        ends = await asyncio.gather(
            *(ends_at(session, request, start) for request, start in ((upload, 0), (GET, 5)))
        )
    assert ends == [90, 35]


async def test_request_that_ends_slowly_delays_no_other_limit() -> None:
    slow = Request(method="GET", url="/slow")
    transport = Silent(lambda request: 50.0 if request.url.endswith("slow") else 0.0)
    async with Session("t", transport=transport, retry=ONCE) as session:
        ends = await asyncio.gather(
            *(ends_at(session, request, start) for request, start in ((slow, 0), (GET, 5)))
        )
    assert ends == [80, 35]


async def test_limit_holds_after_the_session_was_closed() -> None:
    async with Session("t", transport=Silent(), retry=ONCE) as session:
        late = asyncio.create_task(ends_at(session, GET, 0))
        await asyncio.sleep(1)
    assert await late == 30


async def test_request_within_its_limit_is_not_ended() -> None:
    async with Session("t", transport=Answers(answer(204)), retry=ONCE) as session:
        await session.send(GET)
        await asyncio.sleep(100)
        assert (await session.send(GET)).status == 204
