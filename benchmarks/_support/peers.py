"""Polls of a run with each of the libraries there are.

All keep their connections, have a timeout of 30 seconds, send a token and read the JSON. Other
options are left as the documentation of the library has them. orjson is used where it is installed.
"""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import httpx
import requests
from azure.core import AsyncPipelineClient
from azure.core.credentials import AccessToken
from azure.core.pipeline import PipelineResponse, policies
from azure.core.polling import AsyncLROPoller
from azure.core.polling.async_base_polling import AsyncLROBasePolling
from azure.core.polling.base_polling import LongRunningOperation
from azure.core.rest import HttpRequest

from benchmarks._support.models import Run, RunResponse
from benchmarks._support.runs_server import BARE, OURS, path_of
from itwin_export_async import ExportClient, RateLimit

TIMEOUT = 30.0  # seconds
THREADS = 4
TOKEN = "token"
LIMIT = RateLimit(per_minute=10**6, per_hour=10**7)  # counted, and never reached
HEADERS = {
    "Authorization": f"Bearer {TOKEN}",
    "Accept": "application/vnd.bentley.itwin-platform.v1+json",
}

Polls = Callable[[str, int], Awaitable[None]]
"""Polls a run by its id so many times, one after another."""

try:
    import orjson
except ImportError:
    LOADS: Callable[[bytes], Any] = json.loads
else:
    LOADS = orjson.loads


@asynccontextmanager
async def all_peers(base_url: str) -> AsyncIterator[Mapping[str, Polls]]:
    """All that can poll, by name."""
    async with AsyncExitStack() as stack:
        two = await stack.enter_async_context(bare_and_ours(base_url))
        http = await stack.enter_async_context(_aiohttp(base_url))
        pipeline = await stack.enter_async_context(_pipeline(base_url))
        models = await stack.enter_async_context(_httpx(base_url))
        pool = stack.enter_context(ThreadPoolExecutor(THREADS))
        yield {
            "aiohttp, JSON not read": _one_by_one(lambda run_id: _get(http, run_id)),
            **two,
            "httpx + pydantic": _one_by_one(lambda run_id: _modelled(models, run_id)),
            "azure-core pipeline": _one_by_one(lambda run_id: _piped(pipeline, run_id)),
            "azure-core AsyncLROPoller": _lro(pipeline),
            f"requests, {THREADS} threads": _in_threads(pool, base_url),
        }


@asynccontextmanager
async def bare_and_ours(base_url: str) -> AsyncIterator[Mapping[str, Polls]]:
    """Bare aiohttp and our client, with the same JSON reader."""
    async with (
        _aiohttp(base_url) as http,
        ExportClient(TOKEN, base_url=base_url, rate_limit=LIMIT) as client,
    ):
        yield {
            BARE: _one_by_one(lambda run_id: _bare(http, run_id)),
            OURS: _one_by_one(lambda run_id: client.get_run("c1", run_id)),
        }


def _one_by_one(poll: Callable[[str], Awaitable[object]]) -> Polls:
    async def polls(run_id: str, count: int) -> None:
        for _ in range(count):
            await poll(run_id)

    return polls


def _aiohttp(base_url: str) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        base_url, headers=HEADERS, timeout=aiohttp.ClientTimeout(total=TIMEOUT)
    )


async def _get(http: aiohttp.ClientSession, run_id: str) -> bytes:
    async with http.get(path_of(run_id)) as response:
        return await response.read()


async def _bare(http: aiohttp.ClientSession, run_id: str) -> Any:
    return LOADS(await _get(http, run_id))


def _httpx(base_url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=base_url, headers=HEADERS, timeout=TIMEOUT)


async def _modelled(client: httpx.AsyncClient, run_id: str) -> Run:
    response = await client.get(path_of(run_id))
    response.raise_for_status()
    return RunResponse.model_validate_json(response.content).run


class _Credential:
    """A token that never expires."""

    async def get_token(self, *_: str, **__: Any) -> AccessToken:
        return AccessToken(TOKEN, 2**31)

    async def close(self) -> None:
        """Nothing is open."""

    async def __aenter__(self) -> "_Credential":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _pipeline(base_url: str) -> AsyncPipelineClient[Any, Any]:
    """A client with the policies of a generated Azure client, over aiohttp."""
    return AsyncPipelineClient(
        base_url,
        policies=[
            policies.RequestIdPolicy(),
            policies.HeadersPolicy({"Accept": HEADERS["Accept"]}),
            policies.UserAgentPolicy(),
            policies.ProxyPolicy(),
            policies.ContentDecodePolicy(),
            policies.AsyncRedirectPolicy(),
            policies.AsyncRetryPolicy(),
            policies.AsyncBearerTokenCredentialPolicy(_Credential(), "itwin-platform"),
            policies.CustomHookPolicy(),
            policies.NetworkTraceLoggingPolicy(),
            policies.DistributedTracingPolicy(),
            policies.HttpLoggingPolicy(),
        ],
        connection_timeout=TIMEOUT,
        read_timeout=TIMEOUT,
    )


async def _piped(client: AsyncPipelineClient[Any, Any], run_id: str) -> Any:
    request = HttpRequest("GET", client.format_url(path_of(run_id)))
    response = await client.send_request(request, enforce_https=False)  # http, as all here
    response.raise_for_status()
    return response.json()


class _RunPolling(LongRunningOperation[Any, Any]):
    """The run protocol of the service for azure-core's poller; it ends after `count` polls."""

    def __init__(self, url: str, count: int) -> None:
        self._url = url
        self._left = count

    def can_poll(self, pipeline_response: PipelineResponse[Any, Any]) -> bool:
        return True

    def get_polling_url(self) -> str:
        return self._url

    def set_initial_status(self, pipeline_response: PipelineResponse[Any, Any]) -> str:
        return "InProgress"

    def get_status(self, pipeline_response: PipelineResponse[Any, Any]) -> str:
        assert pipeline_response.http_response.json()["run"]["state"]
        self._left -= 1
        return "InProgress" if self._left > 0 else "Succeeded"

    def get_final_get_url(self, pipeline_response: PipelineResponse[Any, Any]) -> None:
        return None


def _lro(client: AsyncPipelineClient[Any, Any]) -> Polls:
    async def polls(run_id: str, count: int) -> None:
        url = client.format_url(path_of(run_id))
        first = await client.send_request(
            HttpRequest("GET", url), enforce_https=False, _return_pipeline_response=True
        )
        if count == 1:
            return
        method: AsyncLROBasePolling[Any, Any, Any] = AsyncLROBasePolling(
            timeout=0,  # seconds between two polls
            lro_algorithms=[_RunPolling(url, count - 1)],
            enforce_https=False,
        )
        await AsyncLROPoller(client, first, lambda response: response, method).result()

    return polls


def _in_threads(pool: ThreadPoolExecutor, base_url: str) -> Polls:
    """Threads with a session each, because a session of requests is not safe to share."""
    own = threading.local()

    def poll(run_id: str) -> Any:
        if not hasattr(own, "session"):
            own.session = requests.Session()
            own.session.headers.update(HEADERS)
        response = own.session.get(base_url + path_of(run_id), timeout=TIMEOUT)
        response.raise_for_status()
        return response.json()

    async def polls(run_id: str, count: int) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(loop.run_in_executor(pool, poll, run_id) for _ in range(count)))

    return polls
