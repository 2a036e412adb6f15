"""One rate limit for several processes, on any number of machines. Needs the extra `redis`.

    limit = RedisRateLimit(RateLimit.COMMUNITY, "redis://localhost", processes=3)
    async with ExportClient.from_env(rate_limit=limit) as client:
        ...

The calls of all clients that share the limit are kept in Redis, in the windows of one clock, as are
the pause after a 429 and the probe that ends it. While Redis is gone, each client goes on by itself
with its share, and tells Redis afterwards what it did.
"""

from importlib.resources import files
from uuid import uuid4

from attrs import Attribute, field, frozen
from attrs.validators import ge, matches_re

from itwin_export_async._http.limiter import RequestLimiter
from itwin_export_async._http.rate_limit import RateLimit
from itwin_export_async._models.validators import instance_of
from itwin_export_async._protocol.sharing import Part
from itwin_export_async._protocol.telling import Pace
from itwin_export_async._redaction import without_query

try:
    from redis.asyncio import ConnectionPool, Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import RedisError
except ImportError as exc:
    raise ImportError(
        "itwin_export_async.redis needs redis: pip install 'itwin-export-async[redis]'"
    ) from exc

from itwin_export_async.redis._gate import RedisGate

__all__ = ["RedisRateLimit"]

_SCHEMES = ("redis://", "rediss://", "unix://")
_KEYS = ("calls", "others", "seen", "spare", "line", "state")
_PLACES = files(__name__).joinpath("places.lua").read_text()


@frozen
class RedisRateLimit:
    """A rate limit that several clients keep together, as the `rate_limit` of each.

    `limit`: what the subscription allows to all of them. `url`: where Redis is, as
    `redis://host:6379/0`, `rediss://` or `unix://`. `processes`: how many clients share the limit
    at most; each has so large a part of it while Redis is gone. `name`: which subscription, where
    one Redis serves several.
    """

    limit: RateLimit = field(validator=instance_of(RateLimit))
    url: str = field(validator=instance_of(str), repr=without_query)
    processes: int = field(kw_only=True, validator=[instance_of(int), ge(1)])
    name: str = field(default="default", kw_only=True, validator=matches_re(r"[^{}]+"))
    _pace: Pace = field(factory=Pace, kw_only=True, repr=False, alias="_pace")

    @url.validator
    def _check_url(self, _: "Attribute[str]", url: str) -> None:
        if not url.startswith(_SCHEMES):
            raise ValueError(f"url must begin with {', '.join(_SCHEMES)}")
        user = url.partition("?")[0].partition("://")[2].rpartition("@")[0]
        if "/" in user:  # or it would be taken for the host, and shown
            raise ValueError("a / in the user or password of url has to be written as %2F")
        try:  # it does not connect yet
            ConnectionPool.from_url(url).make_connection()  # type: ignore[no-untyped-call]
        except (RedisError, AttributeError, TypeError, ValueError):
            words = "url is none that Redis is reached by, or has an option that it does not know"
            raise ValueError(words) from None  # which may repeat a password

    def __attrs_post_init__(self) -> None:
        for _, calls in self._pace.windows_of(self.limit):
            if calls < self.processes:
                raise ValueError(
                    f"{self.processes} processes cannot share {calls} calls: "
                    "one call is the least that each needs"
                )

    def create_limiter(self, max_concurrent: int) -> RequestLimiter:
        """The gate of one client, in the running event loop; it is closed by who opened it."""
        redis = Redis.from_url(
            self.url,
            socket_timeout=self._pace.patience,
            socket_connect_timeout=self._pace.patience,
            retry=Retry(NoBackoff(), 0),
        )
        script = redis.register_script(_PLACES)
        keys = [f"itwin_export_async:{{{self.name}}}:{key}" for key in _KEYS]

        async def ask(message: str) -> str:
            told: str = await script(keys=keys, args=[message])
            return told

        part = Part(uuid4().hex, self.limit, self.processes, self._pace)
        return RedisGate(
            part, max_concurrent, ask=ask, hang_up=redis.aclose, place=without_query(self.url)
        )
