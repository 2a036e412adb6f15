"""The script in Redis that the processes exchange messages with."""

from importlib.resources import files

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from itwin_export_async.redis._messages import InvalidReply

KEYS = ("calls", "peers", "reserved", "queue", "state")
SCRIPT = files(__package__).joinpath("rate_limit.lua").read_text()
FAILURES = (RedisError, OSError, TimeoutError, InvalidReply)

_NOT_REDIS = (AttributeError, IndexError, KeyError, TypeError, ValueError)
"""What redis-py raises for answers that no Redis gives."""

_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (AuthenticationError, "it refuses the user or password"),
    (AuthorizationError, "it refuses the user or password"),
    (NoPermissionError, "its user may not run the script on these keys"),
    (ReadOnlyError, "it is read-only"),
    (OutOfMemoryError, "its memory is full"),
    (ResponseError, "it refuses the script"),
    (InvalidReply, "it does not answer as Redis does"),
    (TimeoutError, "no reply in time"),
)


def reason_of(error: Exception) -> str:
    """Why an exchange failed, without the words of the error: they may repeat the password."""
    for fact in (error.__cause__, error):  # a failed login is the cause of a ConnectionError
        for kind, words in _REASONS:
            if isinstance(fact, kind):
                return f"{words} ({type(fact).__name__})"
    return f"it is gone ({type(error).__name__})"


class RedisStore:
    """One connection to the state of one rate limit."""

    def __init__(self, url: str, name: str, timeout: float) -> None:
        self._redis = Redis.from_url(
            url,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=Retry(NoBackoff(), 0),
        )
        self._script = self._redis.register_script(SCRIPT)
        self._keys = [f"itwin_export_async:{{{name}}}:{key}" for key in KEYS]

    async def exchange(self, message: str) -> object:
        """The script's reply to the message."""
        try:
            return await self._script(keys=self._keys, args=[message])
        except _NOT_REDIS as error:
            raise InvalidReply("not an answer of Redis") from error

    async def evicting_policy(self) -> str | None:
        """The policy by which Redis may evict the keys of the limit, None if it may not."""
        try:
            memory = await self._redis.info("memory")
            policy, bound = memory.get("maxmemory_policy"), memory.get("maxmemory")
        except _NOT_REDIS as error:
            raise InvalidReply("not an answer of Redis") from error
        return f"{policy}" if bound and policy != "noeviction" else None

    async def close(self) -> None:
        await self._redis.aclose()
