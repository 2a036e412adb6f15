"""One export in one line: connection, run, wait and download."""

import asyncio
import os
import pickle
from pathlib import Path

import pytest

from itwin_export_async import (
    AuthenticationType,
    AuthorizationRequired,
    Conflict,
    DownloadError,
    ExportClient,
    ExportOptions,
    ExportOutcome,
    ExportRequest,
    OutputOptions,
    RunFailed,
    RunHandle,
    RunTimeout,
    RunUpdate,
    StartTimeout,
)
from itwin_export_async.emulator import Emulator


async def test_imodel_comes_to_disk(
    client: ExportClient, emulator: Emulator, tmp_path: Path
) -> None:
    imodel_id = emulator.add_imodel("Bridge")
    options = ExportOptions(ifc_version="IFC2x3")
    outcome = await client.export_imodel(imodel_id, tmp_path, options)
    assert outcome.ok
    assert outcome.run is not None
    assert outcome.paths == (tmp_path / "Bridge.ifc",)
    assert outcome.paths[0].read_bytes() == emulator.read_file(outcome.run.output_file_ids[0])
    assert b"IFC2X3" in outcome.paths[0].read_bytes()
    assert outcome.request == ExportRequest(
        imodel_id=imodel_id, destination=tmp_path, options=options
    )
    assert outcome.connection_id == outcome.run.connection_id
    assert pickle.loads(pickle.dumps(outcome)) == outcome


async def test_destination_that_nothing_may_replace_is_refused_before_a_request(
    client: ExportClient, emulator: Emulator, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "f")
    with pytest.raises(ValueError, match=r"destination .*f' is a device or pipe"):
        await client.export_imodel(emulator.add_imodel(), tmp_path / "f")
    assert (tmp_path / "f").is_fifo()
    assert emulator.requests == []


async def test_connection_is_made_once_and_under_its_name(
    client: ExportClient, emulator: Emulator, tmp_path: Path
) -> None:
    imodel_id = emulator.add_imodel()
    for _ in range(2):
        await client.export_imodel(imodel_id, tmp_path / "a.ifc")
    await client.export_imodel(
        imodel_id, tmp_path / "a.ifc", display_name="nightly", authentication_type="Service"
    )
    named = {
        c.display_name: c.authentication_type for c in await client.list_connections(imodel_id)
    }
    assert named == {"itwin-export": AuthenticationType.USER, "nightly": AuthenticationType.SERVICE}


async def test_on_update_may_be_sync_or_async(
    client: ExportClient, emulator: Emulator, tmp_path: Path
) -> None:
    seen: list[RunUpdate] = []

    async def on_update(update: RunUpdate) -> None:
        seen.append(update)

    await client.export_imodel(emulator.add_imodel(), tmp_path, on_update=on_update)
    count = len(seen)
    await client.export_imodel(emulator.add_imodel(), tmp_path, on_update=seen.append)
    assert count > 2
    assert len(seen) > count + 2
    assert seen[-1].run.is_final
    assert {update.request for update in seen} == {None}


async def test_errors_of_each_step_are_raised(
    client: ExportClient, emulator: Emulator, tmp_path: Path
) -> None:
    imodel_id = emulator.add_imodel()
    emulator.plan_next_run(imodel_id, "Error")
    with pytest.raises(RunFailed):
        await client.export_imodel(imodel_id, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(DownloadError):
        await client.export_imodel(imodel_id, tmp_path / "file" / "x.ifc")

    def on_update(update: RunUpdate) -> None:
        raise LookupError("the caller's own")

    with pytest.raises(LookupError, match="the caller's own"):
        await client.export_imodel(imodel_id, tmp_path, on_update=on_update)


async def test_missing_consent_is_raised_before_a_run(
    client: ExportClient, emulator: Emulator, tmp_path: Path
) -> None:
    emulator.user_authorized = False
    with pytest.raises(AuthorizationRequired):
        await client.export_imodel(emulator.add_imodel(), tmp_path)
    assert emulator.count("create_run") == 0
    imodel_id = emulator.add_imodel()
    assert (await client.export_imodel(imodel_id, tmp_path, authentication_type="Service")).ok


async def test_active_run_is_waited_for_joined_or_refused(
    client: ExportClient, emulator: Emulator, tmp_path: Path
) -> None:
    imodel_id = emulator.add_imodel()
    connection = await client.create_connection(imodel_id)
    other = await client.start_run(connection.id)
    with pytest.raises(Conflict):
        await client.export_imodel(imodel_id, tmp_path, if_active="raise")
    joined = await client.export_imodel(imodel_id, tmp_path, if_active="join")
    assert joined.run is not None
    assert joined.run.id == other.run_id
    assert joined.connection_id == connection.id
    await client.start_run(connection.id)
    mine = await client.export_imodel(imodel_id, tmp_path)
    assert mine.connection_id != connection.id


async def test_run_that_was_skipped_has_no_files(
    client: ExportClient, emulator: Emulator, tmp_path: Path
) -> None:
    imodel_id = emulator.add_imodel()
    emulator.plan_next_run(imodel_id, "Skipped")
    outcome = await client.export_imodel(imodel_id, tmp_path)
    assert outcome.ok
    assert outcome.paths == ()


async def test_time_bounds_the_run(
    client: ExportClient, emulator: Emulator, tmp_path: Path
) -> None:
    imodel_id = emulator.add_imodel()
    emulator.plan_next_run(imodel_id, duration=1800)
    with pytest.raises(RunTimeout) as caught:
        await client.export_imodel(imodel_id, tmp_path, timeout=60)
    assert asyncio.get_running_loop().time() == pytest.approx(60, abs=1)
    assert caught.value.run is not None
    resumed = client.resume(caught.value.resume_token)
    assert resumed.deadline is None
    assert (await resumed.wait()).is_final


async def test_time_bounds_the_download(
    client: ExportClient, emulator: Emulator, tmp_path: Path
) -> None:
    imodel_id = emulator.add_imodel()
    emulator.plan_next_run(imodel_id, duration=50)
    emulator.output_visibility_delay = 1000
    with pytest.raises(RunTimeout, match="no output on disk") as caught:
        await client.export_imodel(imodel_id, tmp_path, timeout=70)
    assert asyncio.get_running_loop().time() == pytest.approx(70, abs=1)
    assert caught.value.run is not None
    assert caught.value.run.is_final
    assert client.resume(caught.value.resume_token).run_id == caught.value.run_id
    assert list(tmp_path.iterdir()) == []


async def test_time_bounds_what_comes_before_the_run(
    client: ExportClient, emulator: Emulator, tmp_path: Path
) -> None:
    emulator.latency = 20
    imodel_id = emulator.add_imodel()
    with pytest.raises(StartTimeout, match=f"after 30 s .* for iModel {imodel_id}") as caught:
        await client.export_imodel(imodel_id, tmp_path, timeout=30)
    assert (caught.value.imodel_id, caught.value.seconds) == (imodel_id, 30)
    assert asyncio.get_running_loop().time() == pytest.approx(30, abs=1)


async def test_timeout_error_of_a_callback_is_not_the_timeout(
    client: ExportClient, emulator: Emulator, tmp_path: Path
) -> None:
    def on_update(update: RunUpdate) -> None:
        raise TimeoutError("of the caller")

    with pytest.raises(TimeoutError, match="of the caller"):
        await client.export_imodel(emulator.add_imodel(), tmp_path, on_update=on_update)


async def test_without_a_time_it_may_last(emulator: Emulator, tmp_path: Path) -> None:
    imodel_id = emulator.add_imodel()
    emulator.plan_next_run(imodel_id, duration=30 * 3600)
    async with ExportClient(emulator.token(lifetime=1e6), transport=emulator) as client:
        with pytest.raises(RunTimeout):
            await client.export_imodel(imodel_id, tmp_path, if_active="join")
        outcome = await client.export_imodel(imodel_id, tmp_path, if_active="join", timeout=None)
    assert outcome.ok


async def test_output_in_an_own_blob_is_downloaded_from_it(
    client: ExportClient, emulator: Emulator, tmp_path: Path
) -> None:
    imodel_id = emulator.add_imodel()
    output = OutputOptions(
        location="USER_BLOB_STORAGE", output_sas_url="https://blobs.example/mine.ifc?sig=s"
    )
    with pytest.raises(DownloadError, match=r"mine\.ifc"):  # there is no server
        await client.export_imodel(imodel_id, tmp_path, ExportOptions(output=output))


@pytest.mark.parametrize(
    ("wrong", "error", "named"),
    [
        ({"timeout": 0}, ValueError, "timeout"),
        ({"timeout": "60"}, TypeError, "^timeout must be a number of seconds, not '60'$"),
        ({"if_active": "ask"}, ValueError, "if_active"),
        ({"authentication_type": "Robot"}, ValueError, "authentication_type"),
        ({"options": "IFC"}, TypeError, "^options must be ExportOptions, not str$"),
        ({"imodel_id": " "}, ValueError, "imodel_id is empty"),
        ({"imodel_id": None}, TypeError, "imodel_id must be a string"),
        ({"destination": ""}, ValueError, "destination is empty"),
        ({"destination": b"out"}, TypeError, "^destination must be a string or a path, not bytes$"),
        ({"destination": None}, TypeError, "^destination must be a string or a path, not NoneType"),
        ({"destination": "a\0b"}, ValueError, "NUL"),
        ({"display_name": ""}, ValueError, "display_name is empty"),
        ({"display_name": 7}, TypeError, "display_name must be a string"),
    ],
)
async def test_mistake_is_refused_before_anything_is_sent(
    client: ExportClient,
    emulator: Emulator,
    wrong: dict[str, object],
    error: type[Exception],
    named: str,
) -> None:
    given = {"imodel_id": emulator.add_imodel(), "destination": "out/"} | wrong
    with pytest.raises(error, match=named):
        await client.export_imodel(**given)  # type: ignore[arg-type]
    assert emulator.requests == []


def test_request_is_known_by_its_key_or_by_what_it_is() -> None:
    request = ExportRequest(imodel_id="m1", destination=Path("out") / "a.ifc")
    assert request.destination == str(Path("out") / "a.ifc")
    assert request.identity == f"m1 {request.destination}"
    assert ExportRequest(imodel_id="m1", destination="out/", key="k").identity == "k"
    assert ExportRequest(imodel_id="m1", destination="out/").destination == "out/"
    with pytest.raises(ValueError, match="key is empty"):
        ExportRequest(imodel_id="m1", destination="out/", key="")
    assert pickle.loads(pickle.dumps(request)) == request


def test_request_has_a_connection_name_of_its_own_or_the_default() -> None:
    request = ExportRequest(imodel_id="m1", destination="out/")
    assert request.display_name is None
    assert request.connection_name == "itwin-export"
    named = ExportRequest(imodel_id="m1", destination="out/", display_name="nightly")
    assert (named.display_name, named.connection_name) == ("nightly", "nightly")


def test_outcome_without_an_error_is_ok() -> None:
    request = ExportRequest(imodel_id="m1", destination="out/")
    assert ExportOutcome(request=request).ok
    failed = ExportOutcome(request=request, error=OSError("no space"))
    assert not failed.ok
    assert str(pickle.loads(pickle.dumps(failed)).error) == "no space"


async def test_on_start_gets_the_handle_sync_or_async(
    client: ExportClient, emulator: Emulator, tmp_path: Path
) -> None:
    handles: list[RunHandle] = []

    async def on_start(run: RunHandle) -> None:
        handles.append(run)

    for callback in (on_start, handles.append):
        outcome = await client.export_imodel(emulator.add_imodel(), tmp_path, on_start=callback)
        assert outcome.run is not None
        assert handles[-1].run_id == outcome.run.id
    assert len(handles) == 2


async def test_cancelled_error_of_on_start_is_not_the_callers_cancellation(
    client: ExportClient, emulator: Emulator, tmp_path: Path
) -> None:
    def on_start(_: RunHandle) -> None:
        raise asyncio.CancelledError

    with pytest.raises(RuntimeError, match="on_start raised CancelledError"):
        await client.export_imodel(emulator.add_imodel(), tmp_path, on_start=on_start)
