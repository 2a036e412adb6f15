"""Blocking calls in threads of their own."""

import asyncio
import gc
from concurrent.futures import CancelledError
from contextlib import suppress
from contextvars import ContextVar
from weakref import ref

import pytest

from itwin_export_async._http.threads import call_in_thread

visitor: ContextVar[str] = ContextVar("visitor", default="nobody")


@pytest.mark.parametrize(
    "error", [ValueError("wrong"), TimeoutError("late"), CancelledError(), SystemExit(3)], ids=repr
)
async def test_error_of_a_function_is_raised_as_it_is(error: BaseException) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        await call_in_thread(fail)
    assert caught.value is error


async def test_error_of_a_function_keeps_nothing_of_it_alive() -> None:
    class Token:
        pass

    def fail(_: Token) -> None:
        raise ZeroDivisionError

    gc.disable()
    try:
        token = Token()
        kept = ref(token)
        with suppress(ZeroDivisionError):
            await call_in_thread(fail, token)
        del token
        await asyncio.sleep(1)
        assert kept() is None
    finally:
        gc.enable()


async def test_function_runs_in_the_context_of_its_caller() -> None:
    visitor.set("ada")
    assert await call_in_thread(visitor.get) == "ada"
