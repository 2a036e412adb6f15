"""A Redis in process, in virtual time: it runs the script of the rate limit and no other command.

Of Redis it has the sorted sets, hashes and expiry that the script uses; `test_redis_script.py`
compares it with a real one. Its Lua is that of Redis, 5.1, without a protocol in between.
"""

import json
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable
from typing import Any, Final

import pytest

lua51 = pytest.importorskip("lupa.lua51", reason="the extra `test` brings lupa")


class RedisScriptError(Exception):
    """The script used a command or a type of key as Redis does not allow it."""


class LuaRedis:
    """`run` executes the script with one message, in one step, at the time of `clock` (seconds)."""

    def __init__(self, script: str, keys: tuple[str, ...], clock: Callable[[], float]) -> None:
        self._clock = clock
        self._hashes: dict[str, dict[str, str]] = {}
        self._sets: dict[str, SortedSet] = {}
        self._expiry: dict[str, float] = {}
        self._lua = lua51.LuaRuntime(unpack_returned_tuples=True)
        names = self._lua.globals()
        names.redis = self._lua.table_from({"call": self._call})
        names.cjson = self._lua.table_from({"decode": self._decode, "encode": self._encode})
        names.KEYS = self._lua.table_from(keys)
        self._chunk = self._lua.eval("loadstring")(script)

    def run(self, *args: str) -> str:
        """The reply to one message."""
        for key in [key for key, expires_at in self._expiry.items() if expires_at <= self._clock()]:
            self._delete(key)
        self._lua.globals().ARGV = self._lua.table_from(args)
        reply: str = self._chunk()
        return reply

    def flush(self) -> None:
        """Lose all data, as after a restart."""
        for key in [*self._hashes, *self._sets]:
            self._delete(key)

    def count(self, key: str) -> int:
        """How many entries the key has."""
        return self._zcard(key) + self._hlen(key)

    def _delete(self, key: str) -> None:
        self._hashes.pop(key, None)
        self._sets.pop(key, None)
        self._expiry.pop(key, None)

    def _decode(self, text: str) -> Any:
        return self._lua.table_from(json.loads(text), recursive=True)

    def _encode(self, value: Any) -> str:
        return json.dumps(self._to_python(value))

    def _to_python(self, value: Any) -> Any:
        if lua51.lua_type(value) != "table":
            return value
        items = {key: self._to_python(item) for key, item in value.items()}
        is_array = bool(items) and set(items) == set(range(1, len(items) + 1))
        return [items[number] for number in range(1, len(items) + 1)] if is_array else items

    def _call(self, command: str, *args: Any) -> Any:
        words = [word if isinstance(word, str) else format(word, ".17g") for word in args]
        reply = getattr(self, f"_{command.lower()}")(*words)
        if isinstance(reply, list):
            return self._lua.table_from(reply)
        return False if reply is None else reply

    def _time(self) -> list[str]:
        now = self._clock()
        return [str(int(now)), str(round(now % 1 * 1_000_000))]

    def _pexpire(self, key: str, milliseconds: str) -> None:
        if key in self._hashes or key in self._sets:
            self._expiry[key] = self._clock() + int(milliseconds) / 1000

    def _hget(self, key: str, field: str) -> str | None:
        return self._hashes.get(key, {}).get(field)

    def _hset(self, key: str, *pairs: str) -> None:
        self._hashes.setdefault(key, {}).update(zip(pairs[::2], pairs[1::2], strict=True))

    def _hdel(self, key: str, *fields: str) -> None:
        entries = self._hashes.get(key, {})
        for field in fields:
            entries.pop(field, None)
        if not entries:
            self._delete(key)

    def _hgetall(self, key: str) -> list[str]:
        return [word for pair in self._hashes.get(key, {}).items() for word in pair]

    def _hlen(self, key: str) -> int:
        return len(self._hashes.get(key, {}))

    def _zadd(self, key: str, score: str, member: str) -> None:
        self._sets.setdefault(key, SortedSet()).add(float(score), member)

    def _zrem(self, key: str, member: str) -> None:
        if key in self._sets:
            self._sets[key].remove(member)
            if not self._sets[key].scores:
                self._delete(key)

    def _zcard(self, key: str) -> int:
        return len(self._set(key).scores)

    def _zscore(self, key: str, member: str) -> str | None:
        score = self._set(key).scores.get(member)
        return None if score is None else format(score, ".17g")

    def _zcount(self, key: str, low: str, high: str) -> int:
        return len(self._set(key).between(low, high))

    def _zrange(self, key: str, first: str, last: str, with_scores: str) -> list[str]:
        if (first, last, with_scores) != ("0", "-1", "WITHSCORES"):
            raise RedisScriptError("ZRANGE: only 0 -1 WITHSCORES")
        return _with_scores(self._set(key).between("-inf", "+inf"))

    def _zrangebyscore(self, key: str, low: str, high: str, *options: str) -> list[str]:
        with_scores, limit, offset, count = options
        if (with_scores, limit) != ("WITHSCORES", "LIMIT"):
            raise RedisScriptError("ZRANGEBYSCORE: only WITHSCORES LIMIT")
        return _with_scores(self._set(key).between(low, high)[int(offset) :][: int(count)])

    def _zremrangebyscore(self, key: str, low: str, high: str) -> None:
        for _, member in self._set(key).between(low, high):
            self._zrem(key, member)

    def _set(self, key: str) -> "SortedSet":
        return self._sets.get(key, SortedSet())


class SortedSet:
    """Members by score, then by name."""

    def __init__(self) -> None:
        self.scores: dict[str, float] = {}
        self._entries: list[tuple[float, str]] = []

    def add(self, score: float, member: str) -> None:
        self.remove(member)
        self.scores[member] = score
        insort(self._entries, (score, member))

    def remove(self, member: str) -> None:
        score = self.scores.pop(member, None)
        if score is not None:
            del self._entries[bisect_left(self._entries, (score, member))]

    def between(self, low: str, high: str) -> list[tuple[float, str]]:
        """The entries with scores from `low` to `high`; `(` in front of one excludes it."""
        low_key = (float(low.lstrip("(")), _LAST if low.startswith("(") else "")
        high_key = (float(high.lstrip("(")), "" if high.startswith("(") else _LAST)
        first = bisect_right(self._entries, low_key)
        return self._entries[first : bisect_left(self._entries, high_key)]


_LAST: Final = chr(0x10FFFF)  # sorts behind every name


def _with_scores(entries: list[tuple[float, str]]) -> list[str]:
    return [word for score, member in entries for word in (member, format(score, ".17g"))]
