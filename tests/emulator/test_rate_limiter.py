"""The rate limits of the tiers."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from itwin_export_async.emulator import Emulator, run_virtual

Example = Callable[[str], Any]
CallerOf = Callable[[Emulator], Any]

PATH = "/export/connections/x"


def statuses(caller: Any, times: int) -> Counter[int]:
    return Counter(caller("GET", PATH).status for _ in range(times))


def test_minute_is_a_sliding_window(caller_of: CallerOf) -> None:
    emulator = Emulator(tier="Community")
    call = caller_of(emulator)

    async def main() -> None:
        assert statuses(call, 200) == {404: 200}
        await asyncio.sleep(30)
        assert statuses(call, 301) == {404: 300, 429: 1}
        await asyncio.sleep(29.5)
        assert call("GET", PATH).headers["Retry-After"] == "1"
        await asyncio.sleep(0.5)
        assert statuses(call, 201) == {404: 200, 429: 1}
        assert call("GET", PATH).headers["Retry-After"] == "30"

    run_virtual(main())


def test_hour_is_a_sliding_window_too(caller_of: CallerOf) -> None:
    emulator = Emulator(tier="Community", token_lifetime=1e6)
    call = caller_of(emulator)

    async def main() -> None:
        for _ in range(10):
            assert statuses(call, 500) == {404: 500}
            await asyncio.sleep(60)
        assert call("GET", PATH).headers["Retry-After"] == "3000"
        await asyncio.sleep(3000)
        assert statuses(call, 501) == {404: 500, 429: 1}

    run_virtual(main())


def test_429_is_the_documented_one(caller_of: CallerOf, example: Example) -> None:
    emulator = Emulator(tier="Standard")
    call = caller_of(emulator)

    async def main() -> None:
        assert statuses(call, 5000) == {404: 5000}
        answer = call("POST", "/export/connections/x/runs", {})
        assert answer.status == 429
        assert json.loads(answer.body) == example("export.create_run.429")
        assert answer.headers["Retry-After"] == "60"
        assert answer.headers["ITwinPlatform-RateLimited-Tier"] == "Standard"
        assert answer.headers["ITwinPlatform-RateLimited-API"] == "export"
        assert answer.headers["ITwinPlatform-RateLimited-Operation"] == "create_run"
        assert answer.headers["ITwinPlatform-RateLimited-Application"] == emulator.client_id

    run_virtual(main())


def test_blobs_tokens_and_unknown_operations_do_not_count(caller_of: CallerOf) -> None:
    emulator = Emulator(tier="Community")
    call = caller_of(emulator)
    blob = emulator.user_blob("a", content=b"a")

    async def main() -> None:
        for _ in range(600):
            call("GET", blob, headers={"Authorization": ""})
            call("GET", "/nonsense")
            call("POST", "https://ims.bentley.com/connect/token", b"x=1")
        assert statuses(call, 500) == {404: 500}

    run_virtual(main())


def test_all_operations_count_and_the_tier_can_be_changed(caller_of: CallerOf) -> None:
    emulator = Emulator(tier="Community")
    call = caller_of(emulator)
    paths = ("/storage/files/x", "/synchronization/imodels/storageconnections", PATH)

    async def main() -> None:
        found = Counter(call("GET", path).status == 429 for path in paths * 167)
        assert found == {False: 500, True: 1}
        assert emulator.tier == "Community"
        emulator.tier = None
        assert emulator.tier is None
        assert statuses(call, 1000) == {404: 1000}

    run_virtual(main())
    with pytest.raises(ValueError, match="unknown tier 'Trial': use one of Community"):
        Emulator(tier="Trial")


def test_tier_may_have_windows_of_its_own(caller_of: CallerOf) -> None:
    emulator = Emulator(tier={6.0: 50, 360.0: 60})
    call = caller_of(emulator)

    async def main() -> None:
        assert emulator.tier == {6.0: 50, 360.0: 60}
        assert emulator.state()["service"]["tier"] == "Custom"
        assert emulator.state()["calls"]["last6s"] == {"made": 0, "allowed": 50}
        assert statuses(call, 51) == {404: 50, 429: 1}
        await asyncio.sleep(6)
        assert statuses(call, 11) == {404: 10, 429: 1}
        assert call("GET", PATH).headers["Retry-After"] == "354"

    run_virtual(main())
