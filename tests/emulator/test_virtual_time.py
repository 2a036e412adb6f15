"""The loop in which waiting takes no time."""

import asyncio
import inspect
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from itwin_export_async import ExportClient
from itwin_export_async.emulator import Emulator, VirtualTimeLoop, run_virtual


def test_hour_of_virtual_time_takes_no_time() -> None:
    async def main() -> float:
        await asyncio.sleep(3600)
        return asyncio.get_running_loop().time()

    began = time.monotonic()
    assert run_virtual(main()) == 3600
    assert time.monotonic() - began < 5


def test_timers_fire_in_order_and_on_time() -> None:
    async def main() -> list[tuple[int, float]]:
        loop = asyncio.get_running_loop()
        seen = []

        async def sleeper(seconds: int) -> None:
            await asyncio.sleep(seconds)
            seen.append((seconds, loop.time()))

        async with asyncio.TaskGroup() as group:
            for seconds in (500_000, 3, 1, 2):
                group.create_task(sleeper(seconds))
        return seen

    assert run_virtual(main()) == [(1, 1), (2, 2), (3, 3), (500_000, 500_000)]


def test_time_stands_still_while_a_thread_works() -> None:
    released = threading.Event()

    async def main() -> tuple[bool, float]:
        loop = asyncio.get_running_loop()
        waiting = asyncio.create_task(asyncio.to_thread(released.wait, 10))
        late = loop.call_later(3600, pytest.fail, "the time went on")
        await asyncio.sleep(0)
        threading.Timer(0.05, released.set).start()
        was_released = await waiting
        late.cancel()
        return was_released, loop.time()

    assert run_virtual(main()) == (True, 0)


def test_time_stands_still_while_a_function_gets_a_token() -> None:
    emulator = Emulator(seed=1)
    released = threading.Event()

    def get_token() -> str:
        assert released.wait(10)
        return emulator.token()

    async def main() -> None:
        async with ExportClient(get_token, transport=emulator) as client:
            threading.Timer(0.05, released.set).start()
            assert await client.list_connections(emulator.add_imodel("Bridge")) == ()
        assert asyncio.get_running_loop().time() < 1

    run_virtual(main())


def test_timeout_of_a_thread_holds_in_real_time() -> None:
    released = threading.Event()

    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await asyncio.to_thread(released.wait, 10)
        released.set()
        return asyncio.get_running_loop().time()

    began = time.monotonic()
    assert run_virtual(main()) == 0.05
    assert 0.04 < time.monotonic() - began < 5


def test_jobs_deliver_before_the_time_advances() -> None:
    async def main() -> float:
        async with asyncio.timeout(1):
            for _ in range(20):
                found = await asyncio.gather(*(asyncio.to_thread(abs, -n) for n in range(20)))
                assert found == list(range(20))
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == 0


def test_custom_executors_are_supported() -> None:
    def name() -> str:
        return threading.current_thread().name

    async def main() -> tuple[str, str]:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(thread_name_prefix="given") as given:
            in_given = await loop.run_in_executor(given, name)
        loop.set_default_executor(ThreadPoolExecutor(thread_name_prefix="default"))
        return in_given, await asyncio.to_thread(name)

    in_given, in_default = run_virtual(main())
    assert in_given.startswith("given")
    assert in_default.startswith("default")


def test_job_may_outlive_the_loop() -> None:
    released = threading.Event()
    loop = VirtualTimeLoop()
    with ThreadPoolExecutor() as given:

        async def main() -> "asyncio.Future[bool]":
            return asyncio.get_running_loop().run_in_executor(given, released.wait, 10)

        future = loop.run_until_complete(main())
        future.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        released.set()
    assert loop.is_closed()


def test_time_stands_still_while_a_socket_may_become_readable() -> None:
    async def main() -> tuple[bytes, float]:
        loop = asyncio.get_running_loop()
        here, there = socket.socketpair()
        with here, there:
            here.setblocking(False)
            threading.Timer(0.05, there.send, [b"hello"]).start()
            async with asyncio.timeout(3600):
                return await loop.sock_recv(here, 10), loop.time()

    assert run_virtual(main()) == (b"hello", 0)


def test_deadlock_is_an_error() -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="deadlock"):
        run_virtual(main())


@pytest.mark.filterwarnings("error")
async def test_call_in_a_running_loop_says_what_to_do() -> None:
    main = asyncio.sleep(3600)
    with pytest.raises(RuntimeError, match=r"plain `def`.*run_seconds = 0"):
        run_virtual(main)
    assert inspect.getcoroutinestate(main) == inspect.CORO_CLOSED


def test_failures_and_cancellation_pass_through() -> None:
    async def failing() -> None:
        await asyncio.sleep(5)
        raise LookupError

    async def cancelled() -> None:
        asyncio.current_task().cancel()  # type: ignore[union-attr]
        await asyncio.sleep(5)

    with pytest.raises(LookupError):
        run_virtual(failing())
    with pytest.raises(asyncio.CancelledError):
        run_virtual(cancelled())
