"""ExportService: starts, states, files and the lifespan, without any framework."""

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from itwin_export_async import (
    AuthorizationRequired,
    DownloadError,
    ExportClient,
    FixedSchedule,
    PermissionDenied,
    RunUnreachable,
)
from itwin_export_async.emulator import Emulator
from itwin_export_async.web import (
    ExportService,
    InvalidBody,
    SignedIds,
    StartedExport,
    StartPending,
    UnknownExport,
    allow_all,
)
from itwin_export_async.web._ranges import WHOLE, file_answer, parse_range
from tests.support.fakes import answer
from tests.web.events import parse_pieces

ME = "me"


def service_of(emulator: Emulator, **options: Any) -> ExportService:
    def client() -> ExportClient:
        return ExportClient(emulator.token(), transport=emulator, schedule=FixedSchedule(5))

    defaults: dict[str, Any] = {"secret": "s" * 32, "may_export": allow_all, "client": client}
    return ExportService(**defaults | options)


@pytest.fixture
async def service(emulator: Emulator) -> AsyncIterator[ExportService]:
    service = service_of(emulator)
    async with service.lifespan():
        yield service


@asynccontextmanager
async def finished(service: ExportService, emulator: Emulator, name: str) -> AsyncIterator[str]:
    """The id of a run that has finished."""
    imodel_id = emulator.add_imodel(name)
    emulator.plan_next_run(imodel_id, duration=10)
    started = await service.start(ME, {"imodel_id": imodel_id})
    await asyncio.sleep(60)
    yield started.id


async def test_export_is_started_followed_and_downloaded(
    service: ExportService, emulator: Emulator
) -> None:
    imodel_id = emulator.add_imodel("Bridge")
    body = {"imodel_id": imodel_id, "options": {"ifc_version": "IFC4.3", "model_ids": ["0x1"]}}
    started = await service.start(ME, body)
    assert not started.joined
    assert (await service.describe(ME, started.id))["outcome"] is None
    events = parse_pieces([piece async for piece in service.events(ME, started.id)])
    assert events[-1].data == await service.describe(ME, started.id)
    file = await service.open_file(ME, started.id)
    content = b"".join([chunk async for chunk in file.chunks])
    assert content.startswith(b"ISO-10303-21;")
    assert file.answer.headers["Content-Length"] == str(len(content))
    emulator.assert_no_violations()


def test_body_of_a_started_export_has_its_paths() -> None:
    assert StartedExport(id="x", joined=True).body("/api/exports/x") == {
        "id": "x",
        "status_url": "/api/exports/x",
        "events_url": "/api/exports/x/events",
        "file_url": "/api/exports/x/file",
        "joined": True,
    }


async def test_second_start_of_the_imodel_joins(service: ExportService, emulator: Emulator) -> None:
    body = {"imodel_id": emulator.add_imodel()}
    first = await service.start(ME, body)
    second = await service.start("you", body)
    assert (first.joined, second.joined) == (False, True)
    mine, yours = service.run(ME, first.id), service.run("you", second.id)
    assert mine.run_id == yours.run_id


async def test_start_after_the_end_of_a_run_is_a_new_run(
    service: ExportService, emulator: Emulator
) -> None:
    body = {"imodel_id": emulator.add_imodel()}
    emulator.plan_next_run(body["imodel_id"], duration=3)
    first = await service.start(ME, body)
    await asyncio.sleep(5)
    second = await service.start(ME, body)
    assert service.run(ME, first.id).run_id != service.run(ME, second.id).run_id
    assert not second.joined


@pytest.mark.parametrize("is_async", [False, True])
async def test_may_export_decides_before_anything_is_sent(
    emulator: Emulator, is_async: bool
) -> None:
    seen: list[tuple[str, str]] = []

    def may_export(owner: str, imodel_id: str) -> bool | Awaitable[bool]:
        seen.append((owner, imodel_id))
        if not is_async:
            return False
        future = asyncio.get_running_loop().create_future()
        future.set_result(False)
        return future

    imodel_id = emulator.add_imodel()
    service = service_of(emulator, may_export=may_export)
    async with service.lifespan():
        with pytest.raises(PermissionDenied):
            await service.start(ME, {"imodel_id": imodel_id})
    assert seen == [(ME, imodel_id)]
    assert emulator.requests == []


def test_may_export_must_be_given() -> None:
    with pytest.raises(TypeError, match="may_export must be callable"):
        ExportService(secret="s" * 32, may_export=None)  # type: ignore[arg-type]


BAD_BODIES: list[tuple[Any, str]] = [
    (None, "the body is not a JSON object"),
    ([], "the body is not a JSON object"),
    ("text", "the body is not a JSON object"),
    ({}, "imodel_id"),
    ({"imodel_id": None}, "imodel_id"),
    ({"imodel_id": " "}, "imodel_id"),
    ({"imodel_id": 7}, "imodel_id"),
    ({"imodel_id": ".."}, "imodel_id"),
    ({"imodel_id": "a\0b"}, "imodel_id"),
    ({"imodel_id": "https://h/?sig=planted-secret"}, "imodel_id"),
    ({"imodel_id": "m", "imodelId": "m"}, "'imodelId' is no field"),
    ({"imodel_id": "m", "options": []}, "options is not a JSON object"),
    ({"imodel_id": "m", "options": {"ifc_versio": "IFC4.3"}}, "options.ifc_versio is no option"),
    ({"imodel_id": "m", "options": {"ifc_version": 4.3}}, "options: ifc_version"),
    (
        {"imodel_id": "m", "options": {"ifc_version": "IFC4_3"}},
        "options: ifc_version 'IFC4_3' is called 'IFC4.3' here; use one of 'IFC4.3', 'IFC2x3'",
    ),
    (
        {"imodel_id": "m", "options": {"ifc_version": "ifc2x3_cv_2.0"}},
        "options: ifc_version 'ifc2x3_cv_2.0' is called 'IFC2x3 CV 2.0' here",
    ),
    ({"imodel_id": "m", "options": {"export_type": "DWG"}}, "options: export_type"),
    ({"imodel_id": "m", "options": {"model_ids": "0x1"}}, "options: model_ids"),
    ({"imodel_id": "m", "options": {"model_ids": []}}, "options: model_ids"),
    ({"imodel_id": "m", "options": {"saved_view_id": ""}}, "options: saved_view_id"),
    ({"imodel_id": "m", "options": {"save_logs": 1}}, "options: save_logs"),
    ({"imodel_id": "m", "options": {"folder_id": "f"}}, "options.folder_id is no option"),
    ({"imodel_id": "m", "options": {"output_sas_url": "x"}}, "options.output_sas_url is no option"),
]


@pytest.mark.parametrize(("body", "field"), BAD_BODIES)
async def test_invalid_body_is_refused_by_the_name_of_its_field(
    service: ExportService, emulator: Emulator, body: Any, field: str
) -> None:
    with pytest.raises(InvalidBody) as caught:
        await service.start(ME, body)
    assert field in caught.value.public
    assert "planted" not in caught.value.public
    assert emulator.requests == []


async def test_option_that_is_null_is_left_out(service: ExportService, emulator: Emulator) -> None:
    options = {"ifc_version": None, "model_ids": None}
    await service.start(ME, {"imodel_id": emulator.add_imodel(), "options": options})
    emulator.assert_no_violations()


async def test_slow_start_is_pending_continues_and_is_joined(emulator: Emulator) -> None:
    body = {"imodel_id": emulator.add_imodel()}
    emulator.inject("create_run", None, delay=25)
    service = service_of(emulator, start_timeout=10)
    async with service.lifespan():
        for _ in range(2):
            with pytest.raises(StartPending):
                await service.start(ME, body)
        started = await service.start(ME, body)
        assert not started.joined
    assert emulator.count("create_run") == 1


async def test_finished_start_waits_a_minute_for_the_request_that_joins_it(
    emulator: Emulator,
) -> None:
    body = {"imodel_id": emulator.add_imodel()}
    emulator.plan_next_run(body["imodel_id"], duration=1, times=3)
    service = service_of(emulator, start_timeout=10)
    async with service.lifespan():
        for pause, starts in ((50, 1), (100, 3)):
            emulator.inject("create_run", None, delay=20)
            with pytest.raises(StartPending):
                await service.start(ME, body)
            await asyncio.sleep(pause)
            await service.start(ME, body)
            assert emulator.count("create_run") == starts


async def test_visitor_that_leaves_does_not_end_the_start(
    service: ExportService, emulator: Emulator
) -> None:
    body = {"imodel_id": emulator.add_imodel()}
    emulator.inject("create_run", None, delay=5)
    request = asyncio.create_task(service.start(ME, body))
    await asyncio.sleep(1)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert not (await service.start(ME, body)).joined
    assert emulator.count("create_run") == 1


async def test_start_that_failed_is_tried_again_by_the_next_request(
    emulator: Emulator,
) -> None:
    body = {"imodel_id": emulator.add_imodel()}
    denied = answer(403, '{"error": {"code": "InsufficientPermissions", "message": "no"}}')
    emulator.inject("create_run", denied, delay=20)
    service = service_of(emulator)
    async with service.lifespan():
        with pytest.raises(StartPending):
            await service.start(ME, body)
        await asyncio.sleep(20)
        assert not (await service.start(ME, body)).joined
        emulator.inject("create_run", denied)
        with pytest.raises(PermissionDenied):
            await service.start("you", body)


async def test_stop_ends_requests_that_wait_and_the_lifespan_ends_their_starts(
    emulator: Emulator,
) -> None:
    emulator.inject("create_run", None, delay=1000)
    service = service_of(emulator, start_timeout=600)
    clock = asyncio.get_running_loop().time
    async with service.lifespan():
        request = asyncio.create_task(service.start(ME, {"imodel_id": emulator.add_imodel()}))
        await asyncio.sleep(1)
        service.stop()
        with pytest.raises(StartPending):
            await request
    assert clock() == pytest.approx(1, abs=0.1)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_connection_of_the_service_needs_no_consent(emulator: Emulator) -> None:
    emulator.user_authorized = False
    service = service_of(emulator, authentication_type="Service")
    async with service.lifespan():
        await service.start(ME, {"imodel_id": emulator.add_imodel()})
    assert emulator.count("get_authorization") == 0


async def test_lack_of_consent_is_an_error_before_the_run(emulator: Emulator) -> None:
    emulator.user_authorized = False
    service = service_of(emulator, authentication_type="User")
    async with service.lifespan():
        with pytest.raises(AuthorizationRequired):
            await service.start(ME, {"imodel_id": emulator.add_imodel()})
        assert emulator.count("create_run") == 0
        emulator.user_authorized = True
        await service.start(ME, {"imodel_id": emulator.add_imodel()})


@pytest.mark.parametrize(
    "call",
    [
        lambda service, run: service.describe("you", run),
        lambda service, run: service.open_file("you", run),
        lambda service, run: service.describe(ME, run + "x"),
        lambda service, run: service.describe(ME, "x" + run),
        lambda service, run: service.describe(ME, ""),
        lambda service, run: service.describe(ME, "x"),
    ],
)
async def test_id_of_another_owner_or_another_secret_does_not_exist(
    service: ExportService, emulator: Emulator, call: Callable[[ExportService, str], Any]
) -> None:
    started = await service.start(ME, {"imodel_id": emulator.add_imodel()})
    before = len(emulator.requests)
    with pytest.raises(UnknownExport, match=r"^there is no such export$"):
        await call(service, started.id)
    with pytest.raises(UnknownExport, match=r"^there is no such export$"):
        service.events("you", started.id)
    assert len(emulator.requests) == before


async def test_signed_id_that_is_no_resume_token_does_not_exist(service: ExportService) -> None:
    with pytest.raises(UnknownExport):
        service.run(ME, SignedIds("s" * 32).sign("0.of.another-release", ME))


async def test_state_costs_no_poll_while_a_stream_is_open(
    service: ExportService, emulator: Emulator
) -> None:
    started = await service.start(ME, {"imodel_id": emulator.add_imodel()})
    stream = service.events(ME, started.id)
    while not (await anext(stream)).startswith(b"id:"):
        pass
    polls = emulator.count("get_run")
    await asyncio.gather(*(service.describe(ME, started.id) for _ in range(50)))
    assert emulator.count("get_run") == polls
    assert emulator.count("list_runs") == 1
    await stream.aclose()


async def test_state_has_the_estimate_of_earlier_runs(
    service: ExportService, emulator: Emulator
) -> None:
    imodel_id = emulator.add_imodel()
    emulator.plan_next_run(imodel_id, duration=400, times=4)
    for _ in range(3):
        started = await service.start(ME, {"imodel_id": imodel_id})
        assert (await service.describe(ME, started.id))["failures"] == []
        await asyncio.sleep(1000)
        await service.describe(ME, started.id)
    started = await service.start(ME, {"imodel_id": imodel_id})
    remaining = (await service.describe(ME, started.id))["remaining"]
    assert remaining["low"] <= remaining["median"] <= remaining["high"]
    assert remaining["median"] == pytest.approx(400, rel=0.2)


@pytest.mark.parametrize("delay", [0.0, 60.0])
async def test_state_comes_without_an_estimate_that_cannot_be_had(
    service: ExportService, emulator: Emulator, delay: float
) -> None:
    started = await service.start(ME, {"imodel_id": emulator.add_imodel()})
    emulator.inject("list_runs", 503, delay=delay)
    before = asyncio.get_running_loop().time()
    assert (await service.describe(ME, started.id))["remaining"] is None
    assert asyncio.get_running_loop().time() - before < 3


async def test_state_in_an_outage_is_an_error_within_ten_seconds(
    service: ExportService, emulator: Emulator
) -> None:
    started = await service.start(ME, {"imodel_id": emulator.add_imodel()})
    emulator.inject("get_run", *[503] * 100)
    before = asyncio.get_running_loop().time()
    with pytest.raises(RunUnreachable):
        await service.describe(ME, started.id)
    assert asyncio.get_running_loop().time() - before == pytest.approx(10, abs=0.1)
    assert service.health().runs_polled == 0


async def test_state_of_a_run_that_the_service_does_not_know_yet_is_waited_for(
    service: ExportService, emulator: Emulator
) -> None:
    started = await service.start(ME, {"imodel_id": emulator.add_imodel()})
    missing = answer(404, '{"error": {"code": "RunNotFound", "message": "not yet"}}')
    emulator.inject("get_run", missing)
    assert not (await service.describe(ME, started.id))["is_final"]


async def test_file_is_answered_by_range_and_if_range(
    service: ExportService, emulator: Emulator
) -> None:
    async def fetch(
        range_header: str | None, if_range: str | None = None
    ) -> tuple[int, bytes, str]:
        file = await service.open_file(ME, id, range_header=range_header, if_range=if_range)
        body = b"".join([chunk async for chunk in file.chunks])
        headers = file.answer.headers
        assert headers["Content-Length"] == str(len(body))
        etags.append(headers.get("ETag"))
        return file.answer.status, body, headers.get("Content-Range", "")

    etags: list[str | None] = []
    async with finished(service, emulator, "Bridge") as id:
        status, whole, _ = await fetch(None)
        size = len(whole)
        etag = etags[0]
        assert (status, whole[:13]) == (200, b"ISO-10303-21;")
        assert await fetch("bytes=0-9") == (206, whole[:10], f"bytes 0-9/{size}")
        assert await fetch("Bytes=10-10") == (206, whole[10:11], f"bytes 10-10/{size}")
        assert await fetch("bytes=5-") == (206, whole[5:], f"bytes 5-{size - 1}/{size}")
        assert await fetch("bytes=0-99999999") == (206, whole, f"bytes 0-{size - 1}/{size}")
        assert await fetch("bytes=-5") == (206, whole[-5:], f"bytes {size - 5}-{size - 1}/{size}")
        assert await fetch("bytes=-99999999") == (206, whole, f"bytes 0-{size - 1}/{size}")
        for ignored in (
            "bytes=9-5",
            "bytes=-",
            "bytes=1-2,4-5",
            "lines=1-2",
            "bytes=x-",
            "nonsense",
        ):
            assert await fetch(ignored) == (200, whole, "")
        for beyond in (f"bytes={size}-", f"bytes={size}-{size}", "bytes=99999999-", "bytes=-0"):
            assert await fetch(beyond) == (416, b"", f"bytes */{size}")
        assert await fetch("bytes=0-9", etag) == (206, whole[:10], f"bytes 0-9/{size}")
        assert await fetch(f"bytes={size}-", etag) == (416, b"", f"bytes */{size}")
        assert await fetch(None, etag) == (200, whole, "")
        for other in ('"other"', f"W/{etag}", "Sun, 22 Nov 2026 09:30:00 GMT"):
            assert await fetch("bytes=5-9", other) == (200, whole, "")
            assert await fetch("bytes=0-", other) == (200, whole, "")
            assert await fetch(f"bytes={size}-", other) == (200, whole, "")


async def test_head_has_the_headers_of_the_whole_file_and_no_bytes(
    service: ExportService, emulator: Emulator
) -> None:
    async with finished(service, emulator, "Bridge") as id:
        file = await service.open_file(ME, id)
        await file.aclose()
        await file.aclose()
        head = await service.open_file(
            ME, id, range_header="bytes=0-9", if_range='"x"', is_head=True
        )
        assert [chunk async for chunk in head.chunks] == []
    assert head.answer == file.answer
    assert file.answer.headers["Accept-Ranges"] == "bytes"
    assert file.answer.headers["ETag"].startswith('"')


def test_file_of_unknown_size_and_version_is_answered_whole() -> None:
    assert parse_range("bytes=0-9", None) is WHOLE
    answer = file_answer(name="a", size=None, etag=None, start=0, stop=None, is_range=False)
    assert answer.status == 200
    assert not {"Content-Length", "Content-Range", "ETag"} & set(answer.headers)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Bridge", 'attachment; filename="Bridge.ifc"'),
        (
            "Brücke 橋",
            "attachment; filename=\"Br_cke _.ifc\"; filename*=UTF-8''Br%C3%BCcke%20%E6%A9%8B.ifc",
        ),
        ("50% off", "attachment; filename=\"50_ off.ifc\"; filename*=UTF-8''50%25%20off.ifc"),
    ],
)
async def test_file_has_its_name_also_where_that_is_not_ascii(
    service: ExportService, emulator: Emulator, name: str, expected: str
) -> None:
    async with finished(service, emulator, name) as id:
        async with aclosing(await service.open_file(ME, id)) as file:
            assert file.answer.headers["Content-Disposition"] == expected


async def test_file_of_an_unfinished_and_of_a_failed_run_is_an_error(
    service: ExportService, emulator: Emulator
) -> None:
    imodel_id = emulator.add_imodel()
    emulator.plan_next_run(imodel_id, "Error", duration=10)
    started = await service.start(ME, {"imodel_id": imodel_id})
    for reason in ("not_finished", "no_output"):
        with pytest.raises(DownloadError) as caught:
            await service.open_file(ME, started.id)
        assert caught.value.reason == reason
        await asyncio.sleep(30)


async def test_lifespan_within_a_lifespan_does_nothing(emulator: Emulator) -> None:
    clients: list[ExportClient] = []

    def client() -> ExportClient:
        clients.append(ExportClient(emulator.token(), transport=emulator))
        return clients[-1]

    service = service_of(emulator, client=client)
    for opened in (1, 2):
        async with service.lifespan():
            async with service.lifespan(object()):
                pass
            assert service.health().is_open
        assert len(clients) == opened


async def test_service_outside_its_lifespan_is_an_error(emulator: Emulator) -> None:
    service = service_of(emulator)
    with pytest.raises(RuntimeError, match="add their lifespan"):
        service.health()
    assert "planted" not in repr(vars(service_of(emulator, secret="a planted secret")))


async def test_end_of_the_lifespan_ends_streams_without_an_error(emulator: Emulator) -> None:
    service = service_of(emulator)
    async with service.lifespan():
        started = await service.start(ME, {"imodel_id": emulator.add_imodel()})
        streams = [service.events(ME, started.id) for _ in range(3)]
        readers = [asyncio.create_task(_read(stream)) for stream in streams]
        await asyncio.sleep(1)
    assert [parse_pieces(await reader)[-1].name for reader in readers] == ["update"] * 3


async def _read(stream: AsyncIterator[bytes]) -> list[bytes]:
    return [piece async for piece in stream]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.usefixtures("integration")
async def test_stop_signal_ends_streams_and_reaches_the_server_too(
    emulator: Emulator, number: signal.Signals
) -> None:
    received: list[int] = []
    before = signal.signal(number, lambda name, _: received.append(name))
    mine = signal.getsignal(number)
    emulator.run_seconds = 30
    service = service_of(emulator)
    try:
        async with service.lifespan():
            started = await service.start(ME, {"imodel_id": emulator.add_imodel()})
            reader = asyncio.create_task(_read(service.events(ME, started.id)))
            await asyncio.sleep(0.05)
            signal.raise_signal(number)
            async with asyncio.timeout(5):
                await reader
        assert received == [number]
        assert signal.getsignal(number) is mine
    finally:
        signal.signal(number, before)


async def test_signal_without_a_handler_is_left_alone(emulator: Emulator) -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        async with service_of(emulator).lifespan():
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


async def test_handler_that_a_server_installs_later_stays(emulator: Emulator) -> None:
    before = signal.getsignal(signal.SIGINT)
    try:
        async with service_of(emulator).lifespan():
            signal.signal(signal.SIGINT, signal.default_int_handler)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_lifespan_outside_the_main_thread_leaves_signals_alone(emulator: Emulator) -> None:
    before = signal.getsignal(signal.SIGINT)
    during: list[object] = []

    async def serve() -> None:
        async with service_of(emulator).lifespan():
            during.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    thread.join()
    assert during == [before]
