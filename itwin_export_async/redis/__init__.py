"""One rate limit for several processes, on any number of machines. Needs the extra `redis`.

    limit = RedisRateLimit(RateLimit.COMMUNITY, "redis://localhost", processes=3)
    async with ExportClient.from_env(rate_limit=limit) as client:
        ...

Redis keeps the calls of all clients that share the limit, in the windows of one clock, and the
pause after a 429 with the probe that ends it. While Redis is gone, each client continues with its
share, and reports its calls afterwards.
"""

from uuid import uuid4

from attrs import Attribute, field, frozen
from attrs.validators import ge, matches_re

from itwin_export_async._http.limiter import RequestLimiter
from itwin_export_async._http.rate_limit import RateLimit
from itwin_export_async._models.validators import instance_of
from itwin_export_async._redaction import without_query

try:
    from redis.asyncio import ConnectionPool
    from redis.exceptions import RedisError
except ImportError as exc:
    raise ImportError(
        "itwin_export_async.redis needs redis: pip install 'itwin-export-async[redis]'"
    ) from exc

from itwin_export_async.redis._limiter import RedisLimiter
from itwin_export_async.redis._messages import Timing
from itwin_export_async.redis._quota import QuotaShare
from itwin_export_async.redis._store import RedisStore

__all__ = ["RedisRateLimit"]

_SCHEMES = ("redis://", "rediss://", "unix://")


@frozen
class RedisRateLimit:
    """A rate limit that several clients share, as the `rate_limit` of each.

    `limit`: the calls that the subscription allows to all of them. `url`: the address of Redis, as
    `redis://host:6379/0`, `rediss://host` or `unix:///run/redis.sock`. `processes`: how many
    clients share the limit at most; each gets this part of it while Redis is gone. `name`: of the
    limit, if one Redis serves several subscriptions.
    """

    limit: RateLimit = field(validator=instance_of(RateLimit))
    url: str = field(validator=instance_of(str), repr=without_query)
    processes: int = field(kw_only=True, validator=[instance_of(int), ge(1)])
    name: str = field(default="default", kw_only=True, validator=matches_re(r"[^{}]+"))
    _timing: Timing = field(factory=Timing, kw_only=True, repr=False, alias="_timing")

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
            words = "url is not a valid address of Redis, or has an unknown option"
            raise ValueError(words) from None  # the cause may repeat a password

    def __attrs_post_init__(self) -> None:
        for _, calls in self._timing.windows_of(self.limit):
            if calls < self.processes:
                raise ValueError(
                    f"{self.processes} processes cannot share {calls} calls: "
                    "each needs at least one call"
                )

    def create_limiter(self, at_once: int) -> RequestLimiter:
        """Create the limiter of one client, in the running event loop. The caller closes it."""
        share = QuotaShare(uuid4().hex, self.limit, self.processes, self._timing)
        store = RedisStore(self.url, self.name, self._timing.reply_timeout)
        address = without_query(self.url)
        return RedisLimiter(share, at_once, store=store, name=self.name, redis_url=address)
