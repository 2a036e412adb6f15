"""From a finished run to files on disk, in memory."""

import asyncio
import json
import os
import pickle
from pathlib import Path

import pytest

from itwin_export_async import (
    DownloadError,
    ExportClient,
    ExportOptions,
    NotFound,
    OutputOptions,
    RunHandle,
)
from itwin_export_async.emulator import Emulator
from itwin_export_async.transport import Request, Response
from tests.support.fakes import Answers, Outcome, answer

SIGNED = answer(302, Location="https://blobs.example/f?sig=planted")


@pytest.fixture
async def run(client: ExportClient, emulator: Emulator) -> RunHandle:
    """A run that has ended."""
    connection = await client.create_connection(emulator.add_imodel("Bridge"))
    run = await client.start_run(connection.id)
    await run.wait()
    return run


def content(run: RunHandle, emulator: Emulator) -> bytes:
    assert run.last is not None
    return emulator.read_file(run.last.output_file_ids[0])


async def test_output_in_a_folder_gets_its_name_from_storage(
    run: RunHandle, emulator: Emulator, tmp_path: Path
) -> None:
    paths = await run.download(f"{tmp_path}/new/out/")
    assert paths == [tmp_path / "new/out/Bridge.ifc"]
    assert paths[0].read_bytes() == content(run, emulator)
    assert [path.name for path in paths[0].parent.iterdir()] == ["Bridge.ifc"]


async def test_output_at_a_path_replaces_an_older_file(
    run: RunHandle, emulator: Emulator, tmp_path: Path
) -> None:
    file = tmp_path / "mine.ifc"
    file.write_text("older")
    assert await run.download(file) == [file]
    assert file.read_bytes() == content(run, emulator)


async def test_progress_callback_may_be_async(
    run: RunHandle, emulator: Emulator, tmp_path: Path
) -> None:
    calls: list[tuple[int, int | None]] = []

    async def later(done: int, total: int | None) -> None:
        calls.append((done, total))

    size = len(content(run, emulator))
    await run.download(tmp_path, on_progress=lambda done, total: calls.append((done, total)))
    await run.download(tmp_path, on_progress=later)
    assert calls[-1] == (size, size)
    assert [done for done, _ in calls] == [done for done, _ in calls[: len(calls) // 2]] * 2


async def test_active_run_has_nothing_to_download(
    client: ExportClient, emulator: Emulator, tmp_path: Path
) -> None:
    connection = await client.create_connection(emulator.add_imodel())
    run = await client.start_run(connection.id)
    with pytest.raises(DownloadError, match=r"is still .*; wait"):
        await run.download(tmp_path)


async def test_failed_run_has_no_output(
    client: ExportClient, emulator: Emulator, tmp_path: Path
) -> None:
    imodel_id = emulator.add_imodel()
    emulator.plan_next_run(imodel_id, "Error")
    run = await client.start_run((await client.create_connection(imodel_id)).id)
    await run.wait(check=False)
    with pytest.raises(DownloadError, match="ended with Error and has no output; wait"):
        await run.download(tmp_path)


async def test_output_unknown_to_storage_is_retried(
    run: RunHandle, emulator: Emulator, tmp_path: Path
) -> None:
    missing = answer(404, '{"error": {"code": "FileNotFound", "message": "not yet"}}')
    emulator.inject("download_file", *[missing] * 6)
    (path,) = await run.download(tmp_path / "x.ifc")
    assert path.read_bytes() == content(run, emulator)


NOT_THERE = answer(404)


@pytest.mark.parametrize("name", ["", "x.ifc"])
async def test_output_missing_in_the_blob_store_is_retried(
    run: RunHandle, emulator: Emulator, tmp_path: Path, name: str
) -> None:
    emulator.inject("get_blob", NOT_THERE, NOT_THERE)
    (path,) = await run.download(tmp_path / name)
    assert path.read_bytes() == content(run, emulator)
    assert emulator.count("get_connection") == 0  # Storage knows the plain id


async def test_output_that_stays_missing_in_the_blob_store_is_an_error(
    run: RunHandle, emulator: Emulator, tmp_path: Path
) -> None:
    emulator.inject("get_blob", *[NOT_THERE] * 100)
    before = asyncio.get_running_loop().time()
    with pytest.raises(DownloadError, match=r"no such file: 404 .*still so after 30 s") as caught:
        await run.download(tmp_path)
    assert 30 <= asyncio.get_running_loop().time() - before < 40
    assert run.last is not None
    assert caught.value.file_id == run.last.output_file_ids[0]
    assert isinstance(caught.value.__cause__, NotFound)
    assert not list(tmp_path.iterdir())


async def test_other_errors_of_the_blob_store_are_not_retried(
    run: RunHandle, emulator: Emulator, tmp_path: Path
) -> None:
    emulator.inject("get_blob", answer(400))
    with pytest.raises(DownloadError, match="blob store refuses: 400"):
        await run.download(tmp_path)


async def test_output_that_is_cut_off_is_no_file(tmp_path: Path) -> None:
    """Only the size in Storage shows it: the response just ends."""
    tasks = [{"id": "t", "state": "Completed", "exportOutputFileId": "f1"}]
    jobs = [{"id": "j", "state": "Completed", "tasks": tasks}]
    run = {"id": "r1", "state": "Completed", "result": "Success", "jobs": jobs}

    def serve(request: Request) -> Response:
        if "blobs" in request.url:
            return answer(200, "cut")
        if request.url.endswith("/download"):
            return SIGNED
        if "/files/" in request.url:
            return answer(200, '{"file": {"id": "f1", "displayName": "a.ifc", "size": 7}}')
        return answer(200, json.dumps({"run": run}))

    async with ExportClient("t", transport=Answers(serve)) as client:
        for place in (tmp_path, tmp_path / "b.ifc"):
            with pytest.raises(DownloadError, match="ended after byte 3 of 7"):
                await client.attach("c1", "r1").download(place)
    assert not list(tmp_path.iterdir())


class Late(Answers):
    """Storage learns only after a while how long an output is. `headers`: those of its content."""

    def __init__(self, until: float, **headers: str) -> None:
        super().__init__(self._serve)
        self._clock = asyncio.get_running_loop().time
        self._until = self._clock() + until
        self._content = answer(200, "content", **headers)

    def _serve(self, request: Request) -> Response:
        if "blobs" in request.url:
            return self._content
        if request.url.endswith("/download"):
            return SIGNED
        if "/files/" in request.url:
            size = 0 if self._clock() < self._until else 7
            file = {"id": "f1", "displayName": "a.ifc", "size": size}
            return answer(200, json.dumps({"file": file}))
        tasks = [{"id": "t", "state": "Completed", "exportOutputFileId": "f1"}]
        jobs = [{"id": "j", "state": "Completed", "tasks": tasks}]
        run = {"id": "r1", "state": "Completed", "result": "Success", "jobs": jobs}
        return answer(200, json.dumps({"run": run}))


@pytest.mark.parametrize("headers", [{"Content-Length": "7"}, {}, {"Transfer-Encoding": "chunked"}])
async def test_output_whose_size_is_late_is_retried(
    tmp_path: Path, headers: dict[str, str]
) -> None:
    for place in (tmp_path, tmp_path / "b.ifc"):
        async with ExportClient("t", transport=Late(5, **headers)) as client:
            (path,) = await client.attach("c1", "r1").download(place)
        assert path.read_text() == "content"


async def test_output_whose_size_stays_different_is_an_error(tmp_path: Path) -> None:
    before = asyncio.get_running_loop().time()
    async with ExportClient("t", transport=Late(1000, Content_Length="7")) as client:
        with pytest.raises(
            DownloadError, match=r"has 7 bytes, Storage reports 0: .*still so after 30 s"
        ) as caught:
            await client.attach("c1", "r1").download(tmp_path)
    assert 30 <= asyncio.get_running_loop().time() - before < 40
    assert (caught.value.file_id, caught.value.destination) == ("f1", str(tmp_path))
    assert not list(tmp_path.iterdir())


async def test_slow_responses_do_not_reduce_the_number_of_rounds(
    run: RunHandle, emulator: Emulator, tmp_path: Path
) -> None:
    missing = answer(404, '{"error": {"code": "FileNotFound", "message": "not yet"}}')
    emulator.inject("get_file", *[missing] * 3, delay=20.0)
    assert await run.download(tmp_path) == [tmp_path / "Bridge.ifc"]


async def test_id_that_storage_learns_is_not_tried_as_a_composite(
    run: RunHandle, emulator: Emulator, tmp_path: Path
) -> None:
    """The error does not say that the file is unknown if it has no content."""
    emulator.inject("get_file", *[answer(404, "{}")] * 3)  # as given, and both ways once
    emulator.inject("get_blob", *[NOT_THERE] * 100)
    with pytest.raises(DownloadError, match=r"no such file: 404 .*still so after 30 s"):
        await run.download(tmp_path)
    assert run.last is not None
    reads = [record for record in emulator.requests if record.operation == "get_file"]
    assert len([r for r in reads if run.last.output_file_ids[0] not in r.path]) == 1


async def test_id_unknown_to_storage_is_tried_as_a_composite(
    run: RunHandle, emulator: Emulator, tmp_path: Path
) -> None:
    emulator.accept_plain_file_ids = False
    (path,) = await run.download(tmp_path)
    assert path.read_bytes() == content(run, emulator)


async def test_output_that_never_appears_is_an_error_with_all_ids(
    run: RunHandle, emulator: Emulator, tmp_path: Path
) -> None:
    emulator.inject("get_file", *[answer(404, "{}")] * 1000)
    before = asyncio.get_running_loop().time()
    with pytest.raises(DownloadError, match=r"tried as .* and as .* for 30 s") as caught:
        await run.download(tmp_path)
    assert 30 <= asyncio.get_running_loop().time() - before < 40
    assert run.last is not None
    assert caught.value.file_id == run.last.output_file_ids[0]
    assert isinstance(caught.value.__cause__, NotFound)
    assert not list(tmp_path.iterdir())


GATEWAY = '{"error": {"code": "x", "message": "x", "details": [{"code": "OperationNotFound"}]}}'


@pytest.mark.parametrize("before", [0, 1])  # the second: between the plain id and the composite
async def test_404_of_the_gateway_is_no_missing_file(
    run: RunHandle, emulator: Emulator, tmp_path: Path, before: int
) -> None:
    emulator.inject("get_file", *[answer(404, "{}")] * before, answer(404, GATEWAY))
    with pytest.raises(NotFound, match="gateway"):
        await run.download(tmp_path)


@pytest.mark.parametrize(
    ("fault", "urls"),
    [
        (ConnectionResetError(), 1),
        (answer(403, "expired"), 2),
        (answer(503, "busy", Retry_After="3"), 1),
        (answer(200, "half"), 2),
    ],
)
async def test_broken_download_comes_to_the_same_bytes(
    run: RunHandle, emulator: Emulator, tmp_path: Path, fault: Outcome, urls: int
) -> None:
    emulator.inject("get_blob", fault)
    (path,) = await run.download(tmp_path)
    assert path.read_bytes() == content(run, emulator)
    assert [path.name for path in tmp_path.iterdir()] == ["Bridge.ifc"]
    assert emulator.count("download_file") == urls  # a broken connection needs no new one


def serve_outputs(*names: str) -> Answers:
    """A service with one finished run whose outputs have these names."""
    ids = [f"f{number}" for number in range(len(names))]
    tasks = [{"id": n, "state": "Completed", "exportOutputFileId": n} for n in ids]
    jobs = [{"id": "j", "state": "Completed", "tasks": tasks}]
    run = {"id": "r1", "state": "Completed", "result": "Success", "jobs": jobs}

    def serve(request: Request) -> Response:
        *_, before, last = request.url.partition("?")[0].split("/")
        if "blobs" in request.url:
            return answer(200, f"of {last}", Content_Length="5", ETag=f'"{last}"')
        if last == "download":
            return answer(302, Location=f"https://blobs.example/{before}")
        if before == "files":
            name = names[ids.index(last)]
            return answer(200, json.dumps({"file": {"id": last, "displayName": name, "size": 5}}))
        return answer(200, json.dumps({"run": run}))

    return Answers(serve)


async def test_outputs_of_one_name_get_numbers(tmp_path: Path) -> None:
    transport = serve_outputs("out.ifc", "out.ifc", "out.ifc")
    async with ExportClient("t", transport=transport) as client:
        run = client.attach("c1", "r1")
        for _ in range(2):  # the files of the first download are replaced by the second
            paths = await run.download(tmp_path)
            assert [path.name for path in paths] == ["out.ifc", "out-2.ifc", "out-3.ifc"]
            assert [path.read_text() for path in paths] == ["of f0", "of f1", "of f2"]
        named = await run.download(tmp_path / "b.ifc")
    assert [path.name for path in named] == ["b.ifc", "b-2.ifc", "b-3.ifc"]


async def test_output_never_replaces_a_file_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "out.ifc").write_text("mine")
    (tmp_path / "b-2.ifc").write_text("mine")
    async with ExportClient("t", transport=serve_outputs("out.ifc", "out.ifc")) as client:
        run = client.attach("c1", "r1")
        paths = await run.download(tmp_path)
        named = await run.download(tmp_path / "b.ifc")
    assert [path.name for path in paths] == ["out-2.ifc", "out-3.ifc"]
    assert [path.name for path in named] == ["b.ifc", "b-3.ifc"]
    assert (tmp_path / "out.ifc").read_text() == (tmp_path / "b-2.ifc").read_text() == "mine"


async def test_path_without_a_suffix_is_a_folder(tmp_path: Path) -> None:
    async with ExportClient("t", transport=serve_outputs("a.ifc")) as client:
        paths = await client.attach("c1", "r1").download(tmp_path / "exports")
    assert paths == [tmp_path / "exports" / "a.ifc"]


async def test_outputs_are_listed_with_names_and_sizes_and_read_as_streams() -> None:
    async with ExportClient("t", transport=serve_outputs("a.ifc", "../.b.ifc")) as client:
        outputs = await client.attach("c1", "r1").outputs()
        facts = [(output.file_id, output.name, output.size) for output in outputs]
        assert facts == [("f0", "a.ifc", 5), ("f1", "_b.ifc", 5)]
        for output in outputs:
            async with output.open() as file:
                assert (file.name, file.size, file.etag) == (output.name, 5, f'"{output.file_id}"')
                assert await file.read() == f"of {output.file_id}".encode()


async def test_output_pickles_without_its_client() -> None:
    async with ExportClient("t", transport=serve_outputs("a.ifc")) as client:
        (output,) = await client.attach("c1", "r1").outputs()
    copy = pickle.loads(pickle.dumps(output))
    assert copy == output
    assert repr(copy) == "RunOutput(file_id='f0', name='a.ifc', size=5)"
    with pytest.raises(RuntimeError, match="no client"):
        copy.open()


async def test_outputs_of_a_run_are_listed_once_storage_knows_them(
    run: RunHandle, emulator: Emulator
) -> None:
    emulator.accept_plain_file_ids = False
    emulator.inject("get_file", *[answer(404, "{}")] * 3)
    emulator.inject("get_blob", NOT_THERE, NOT_THERE)
    (output,) = await run.outputs()
    async with output.open() as file:
        assert await file.read() == content(run, emulator)


@pytest.mark.parametrize(
    ("result", "reason"), [(None, "not_finished"), ("Error", "no_output"), ("Skipped", "no_output")]
)
async def test_outputs_that_there_are_not_are_an_error_with_its_reason(
    client: ExportClient, emulator: Emulator, result: str | None, reason: str
) -> None:
    imodel_id = emulator.add_imodel()
    if result:
        emulator.plan_next_run(imodel_id, result)
    run = await client.start_run((await client.create_connection(imodel_id)).id)
    if result:
        await run.wait(check=False)
    with pytest.raises(DownloadError) as caught:
        await run.outputs()
    assert caught.value.reason == reason


async def test_output_in_an_own_blob_is_read_as_a_stream(
    client: ExportClient, emulator: Emulator
) -> None:
    sas_url = emulator.user_blob("results/my bridge.ifc")
    connection = await client.create_connection(emulator.add_imodel("Bridge"))
    run = await client.start_run(connection.id, user_blob_url(sas_url))
    await run.wait()
    (output,) = await run.outputs()
    assert (output.file_id, output.name, output.size) == ("", "my bridge.ifc", None)
    async with output.open() as file:
        assert (await file.read()).startswith(b"ISO-10303-21;")
    assert "sig=" not in repr(output) + pickle.dumps(output).decode(errors="replace")


async def test_id_without_a_composite_is_tried_as_given(tmp_path: Path) -> None:
    tasks = '[{"id": "t", "state": "Completed", "exportOutputFileId": "no-guid"}]'
    jobs = f'[{{"id": "j", "state": "Completed", "tasks": {tasks}}}]'

    def serve(request: Request) -> Response:
        if "/files/" in request.url:
            return answer(404, "{}")
        if request.url.endswith("/runs/r1"):
            run = f'"id": "r1", "state": "Completed", "result": "Success", "jobs": {jobs}'
            return answer(200, f'{{"run": {{{run}}}}}')
        return answer(200, connection("a0471655-6b18-419e-ab01-ebf4fbff9dff"))

    async with ExportClient("t", transport=Answers(serve)) as client:
        with pytest.raises(DownloadError, match="tried as no-guid for 30 s"):
            await client.attach("c1", "r1").download(tmp_path / "x.ifc")


def connection(itwin_id: str) -> str:
    return f'{{"connection": {{"id": "c1", "iTwinId": "{itwin_id}"}}}}'


RUNNING = '{"run": {"id": "r1", "state": "Executing"}}'


async def test_invalid_output_id_is_an_error(tmp_path: Path) -> None:
    run = RUNNING.replace("Executing", "Completed").replace(
        "}}", ', "jobs": [{"id": "j", "state": "Completed", "tasks": [{"id": "t", "state": '
        '"Completed", "exportOutputFileId": ".."}]}], "result": "Success"}}'
    )  # fmt: skip
    async with ExportClient("t", transport=Answers(answer(200, run))) as client:
        with pytest.raises(DownloadError, match=r"exportOutputFileId '\.\.' is not an id"):
            await client.attach("c1", "r1").download(tmp_path)


async def test_partial_success_downloads_what_succeeded(tmp_path: Path) -> None:
    tasks = [
        {"id": "1", "state": "Completed", "result": "Error", "exportOutputFileId": "bad"},
        {"id": "2", "state": "Completed", "result": "Success", "exportOutputFileId": "good"},
    ]
    jobs = [{"id": "j", "state": "Completed", "tasks": tasks}]
    run = {"id": "r1", "state": "Completed", "result": "PartialSuccess", "jobs": jobs}

    def serve(request: Request) -> Response:
        if "/runs/" in request.url:
            return answer(200, json.dumps({"run": run}))
        if "blobs" in request.url:
            return answer(200, "content", Content_Length="7")
        return SIGNED if "good" in request.url else answer(404, "{}")

    async with ExportClient("t", transport=Answers(serve)) as client:
        await client.attach("c1", "r1").download(tmp_path / "x.ifc")
    assert (tmp_path / "x.ifc").read_text() == "content"


@pytest.mark.parametrize("status", [403, 404, 400, 503])
async def test_unreadable_connection_does_not_end_the_retries(
    run: RunHandle, emulator: Emulator, tmp_path: Path, status: int
) -> None:
    missing = answer(404, '{"error": {"code": "FileNotFound", "message": "not yet"}}')
    emulator.inject("get_connection", *[answer(status, "planted")] * 9)
    emulator.inject("get_file", missing, missing, missing)
    (path,) = await run.download(tmp_path)
    assert path.read_bytes() == content(run, emulator)


async def test_unreadable_connection_is_named_with_the_tried_ids(
    run: RunHandle, emulator: Emulator, tmp_path: Path
) -> None:
    emulator.inject("get_connection", answer(403, "not yours"))
    emulator.inject("get_file", *[answer(404, "{}")] * 100)
    said = r"tried as \S+ for 30 s; no composite id without the connection: 403: not yours"
    with pytest.raises(DownloadError, match=said) as caught:
        await run.download(tmp_path)
    assert isinstance(caught.value.__cause__, NotFound)


async def test_deleted_connection_does_not_prevent_a_download(
    run: RunHandle, client: ExportClient, emulator: Emulator, tmp_path: Path
) -> None:
    await client.delete_connection(run.connection_id)
    missing = answer(404, '{"error": {"code": "FileNotFound", "message": "not yet"}}')
    emulator.inject("download_file", missing, missing)
    (path,) = await run.download(tmp_path / "x.ifc")
    assert path.read_bytes() == content(run, emulator)


async def test_folder_that_cannot_be_written_is_named_before_a_request(
    run: RunHandle, emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    before = len(emulator.requests)
    with pytest.raises(DownloadError, match=r"file/deeper: the folder cannot be written: Not a"):
        await run.download(tmp_path / "file/deeper/x.ifc")
    for lacking in (os.W_OK, os.X_OK):  # without the second, no file in it can be opened
        monkeypatch.setattr(os, "access", lambda _, mode, lacking=lacking: not mode & lacking)
        with pytest.raises(DownloadError, match="folder cannot be written: Permission denied"):
            await run.download(tmp_path / "x.ifc")
    assert len(emulator.requests) == before


def user_blob_url(sas_url: str) -> ExportOptions:
    return ExportOptions(output=OutputOptions(location="USER_BLOB_STORAGE", output_sas_url=sas_url))


async def test_output_in_an_own_blob_is_downloaded_from_there(
    client: ExportClient, emulator: Emulator, tmp_path: Path
) -> None:
    sas_url = emulator.user_blob("results/my bridge.ifc")
    connection = await client.create_connection(emulator.add_imodel("Bridge"))
    run = await client.start_run(connection.id, user_blob_url(sas_url))
    await run.wait()
    (path,) = await run.download(tmp_path)
    assert path.name == "my bridge.ifc"
    assert path.read_bytes().startswith(b"ISO-10303-21;")
    assert emulator.count("download_file") == 0
    other = client.resume(run.resume_token)
    with pytest.raises(DownloadError, match="download_blob"):
        await other.wait()
        await other.download(tmp_path)
    again = await client.storage.download_blob(sas_url, tmp_path / "again.ifc")
    assert again.read_bytes() == path.read_bytes()
    for holder in (pickle.dumps(run).decode(errors="replace"), run.resume_token, repr(run)):
        assert "sig=" not in holder


async def test_failed_run_has_no_output_in_an_own_blob(
    client: ExportClient, emulator: Emulator, tmp_path: Path
) -> None:
    imodel_id = emulator.add_imodel()
    emulator.plan_next_run(imodel_id, "Error")
    connection = await client.create_connection(imodel_id)
    run = await client.start_run(connection.id, user_blob_url(emulator.user_blob("a.ifc")))
    await run.wait(check=False)
    with pytest.raises(DownloadError, match="ended with Error and has no output; wait"):
        await run.download(tmp_path)


async def test_own_blob_that_is_missing_is_retried(
    client: ExportClient, emulator: Emulator, tmp_path: Path
) -> None:
    connection = await client.create_connection(emulator.add_imodel())
    run = await client.start_run(connection.id, user_blob_url(emulator.user_blob("a.ifc")))
    await run.wait()
    emulator.inject("get_blob", NOT_THERE, NOT_THERE)
    assert await run.download(tmp_path) == [tmp_path / "a.ifc"]
    emulator.inject("get_blob", answer(400))
    with pytest.raises(DownloadError, match="refuses: 400"):
        await run.download(tmp_path)
    emulator.inject("get_blob", *[NOT_THERE] * 30)
    with pytest.raises(DownloadError, match=r"no such file: 404 .*still so after 30 s") as caught:
        await run.download(tmp_path)
    assert isinstance(caught.value.__cause__, NotFound)
