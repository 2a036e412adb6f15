"""A RunStore in Redis, for processes on any number of machines."""

from redis.asyncio import Redis

WEEK = 7 * 24 * 3600


class RedisRunStore:
    def __init__(self, url: str) -> None:
        self.redis = Redis.from_url(url)

    async def get(self, key: str) -> str | None:
        value = await self.redis.get(key)
        return value.decode() if isinstance(value, bytes) else value

    async def set(self, key: str, value: str) -> None:
        await self.redis.set(key, value, ex=WEEK)
