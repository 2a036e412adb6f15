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


async def test_a_folder_gets_the_file_by_its_name(
    run: RunHandle, emulator: Emulator, tmp_path: Path
) -> None:
    paths = await run.download(f"{tmp_path}/new/out/")
    assert paths == [tmp_path / "new/out/Bridge.ifc"]
    assert paths[0].read_bytes() == content(run, emulator)
    assert [path.name for path in paths[0].parent.iterdir()] == ["Bridge.ifc"]


async def test_a_path_names_the_file_and_an_older_one_gives_way(
    run: RunHandle, emulator: Emulator, tmp_path: Path
) -> None:
    file = tmp_path / "mine.ifc"
    file.write_text("older")
    assert await run.download(file) == [file]
    assert file.read_bytes() == content(run, emulator)


async def test_progress_is_told(run: RunHandle, emulator: Emulator, tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []

    async def later(done: int, total: int | None) -> None:
        told.append((done, total))

    size = len(content(run, emulator))
    await run.download(tmp_path, on_progress=lambda done, total: told.append((done, total)))
    await run.download(tmp_path, on_progress=later)
    assert told[-1] == (size, size)
    assert [done for done, _ in told] == [done for done, _ in told[: len(told) // 2]] * 2


async def test_a_run_that_goes_on_has_nothing_to_download(
    client: ExportClient, emulator: Emulator, tmp_path: Path
) -> None:
    connection = await client.create_connection(emulator.add_imodel())
    run = await client.start_run(connection.id)
    with pytest.raises(DownloadError, match=r"is still .*; wait"):
        await run.download(tmp_path)


async def test_a_run_without_output_says_so(
    client: ExportClient, emulator: Emulator, tmp_path: Path
) -> None:
    imodel_id = emulator.add_imodel()
    emulator.plan_next_run(imodel_id, "Error")
    run = await client.start_run((await client.create_connection(imodel_id)).id)
    await run.wait(check=False)
    with pytest.raises(DownloadError, match="ended with Error and made no output; wait"):
        await run.download(tmp_path)


async def test_a_file_that_is_not_readable_yet_is_waited_for(
    run: RunHandle, emulator: Emulator, tmp_path: Path
) -> None:
    missing = answer(404, '{"error": {"code": "FileNotFound", "message": "not yet"}}')
    emulator.inject("download_file", *[missing] * 6)
    (path,) = await run.download(tmp_path / "x.ifc")
    assert path.read_bytes() == content(run, emulator)


NOT_THERE = answer(404)


@pytest.mark.parametrize("name", ["", "x.ifc"])
async def test_a_content_that_is_not_there_yet_is_waited_for(
    run: RunHandle, emulator: Emulator, tmp_path: Path, name: str
) -> None:
    emulator.inject("get_blob", NOT_THERE, NOT_THERE)
    (path,) = await run.download(tmp_path / name)
    assert path.read_bytes() == content(run, emulator)
    assert emulator.count("get_connection") == 0  # Storage knows the id as it is


async def test_a_content_that_never_appears_is_told(
    run: RunHandle, emulator: Emulator, tmp_path: Path
) -> None:
    emulator.inject("get_blob", *[NOT_THERE] * 100)
    before = asyncio.get_running_loop().time()
    with pytest.raises(
        DownloadError, match=r"blob store refuses: 404 .* still 30 s after"
    ) as caught:
        await run.download(tmp_path)
    assert 30 <= asyncio.get_running_loop().time() - before < 40
    assert run.last is not None
    assert caught.value.file_id == run.last.output_file_ids[0]
    assert isinstance(caught.value.__cause__, NotFound)
    assert not list(tmp_path.iterdir())


async def test_what_else_the_blob_store_refuses_is_not_waited_for(
    run: RunHandle, emulator: Emulator, tmp_path: Path
) -> None:
    emulator.inject("get_blob", answer(400))
    with pytest.raises(DownloadError, match="blob store refuses: 400"):
        await run.download(tmp_path)


async def test_a_content_that_is_cut_off_is_no_file(tmp_path: Path) -> None:
    """Where the size in Storage alone tells it, for the connection just ends."""
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
            with pytest.raises(DownloadError, match="3 of 7 bytes came"):
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
            told = {"id": "f1", "displayName": "a.ifc", "size": size}
            return answer(200, json.dumps({"file": told}))
        tasks = [{"id": "t", "state": "Completed", "exportOutputFileId": "f1"}]
        jobs = [{"id": "j", "state": "Completed", "tasks": tasks}]
        run = {"id": "r1", "state": "Completed", "result": "Success", "jobs": jobs}
        return answer(200, json.dumps({"run": run}))


@pytest.mark.parametrize("headers", [{"Content-Length": "7"}, {}, {"Transfer-Encoding": "chunked"}])
async def test_a_size_that_comes_later_than_the_content_is_waited_for(
    tmp_path: Path, headers: dict[str, str]
) -> None:
    for place in (tmp_path, tmp_path / "b.ifc"):
        async with ExportClient("t", transport=Late(5, **headers)) as client:
            (path,) = await client.attach("c1", "r1").download(place)
        assert path.read_text() == "content"


async def test_a_size_that_stays_another_is_told_at_last(tmp_path: Path) -> None:
    before = asyncio.get_running_loop().time()
    async with ExportClient("t", transport=Late(1000, Content_Length="7")) as client:
        with pytest.raises(
            DownloadError, match=r"has 7 bytes, and Storage tells of 0: .*, still 30 s after"
        ) as caught:
            await client.attach("c1", "r1").download(tmp_path)
    assert 30 <= asyncio.get_running_loop().time() - before < 40
    assert (caught.value.file_id, caught.value.destination) == ("f1", str(tmp_path))
    assert not list(tmp_path.iterdir())


async def test_slow_answers_do_not_use_the_patience_up(
    run: RunHandle, emulator: Emulator, tmp_path: Path
) -> None:
    missing = answer(404, '{"error": {"code": "FileNotFound", "message": "not yet"}}')
    emulator.inject("get_file", *[missing] * 3, delay=20.0)
    assert await run.download(tmp_path) == [tmp_path / "Bridge.ifc"]


async def test_an_id_that_storage_comes_to_know_is_not_tried_as_a_composite(
    run: RunHandle, emulator: Emulator, tmp_path: Path
) -> None:
    """Nor is it said to be unknown, when there is no content in the end."""
    emulator.inject("get_file", *[answer(404, "{}")] * 3)  # as given, and both ways once
    emulator.inject("get_blob", *[NOT_THERE] * 100)
    with pytest.raises(DownloadError, match=r"blob store refuses: 404 .* still 30 s after"):
        await run.download(tmp_path)
    assert run.last is not None
    asked = [record for record in emulator.requests if record.operation == "get_file"]
    assert len([r for r in asked if run.last.output_file_ids[0] not in r.path]) == 1


async def test_an_id_that_storage_does_not_know_is_tried_as_a_composite(
    run: RunHandle, emulator: Emulator, tmp_path: Path
) -> None:
    emulator.accept_plain_file_ids = False
    (path,) = await run.download(tmp_path)
    assert path.read_bytes() == content(run, emulator)


async def test_a_file_that_never_appears_is_named_with_all_that_was_tried(
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


async def test_the_gateways_404_is_not_a_missing_file(
    run: RunHandle, emulator: Emulator, tmp_path: Path
) -> None:
    body = '{"error": {"code": "x", "message": "x", "details": [{"code": "OperationNotFound"}]}}'
    emulator.inject("get_file", answer(404, body))
    with pytest.raises(NotFound, match="gateway"):
        await run.download(tmp_path)


@pytest.mark.parametrize(
    "trouble",
    [
        ConnectionResetError(),
        answer(403, "expired"),
        answer(503, "busy", Retry_After="3"),
        answer(200, "half"),
    ],
)
async def test_what_breaks_off_is_fetched_to_the_same_bytes(
    run: RunHandle, emulator: Emulator, tmp_path: Path, trouble: Outcome
) -> None:
    emulator.inject("get_blob", trouble)
    (path,) = await run.download(tmp_path)
    assert path.read_bytes() == content(run, emulator)
    assert [path.name for path in tmp_path.iterdir()] == ["Bridge.ifc"]
    assert emulator.count("download_file") == 2  # a new signed address for each go


async def test_outputs_of_one_name_get_numbers(tmp_path: Path) -> None:
    tasks = [{"id": n, "state": "Completed", "exportOutputFileId": n} for n in "abc"]
    jobs = [{"id": "j", "state": "Completed", "tasks": tasks}]
    run = {"id": "r1", "state": "Completed", "result": "Success", "jobs": jobs}

    def serve(request: Request) -> Response:
        path = request.url.partition("?")[0].rsplit("/", 2)
        if "blobs" in request.url:
            return answer(200, "content", Content_Length="7")
        if path[-1] == "download":
            return SIGNED
        if path[-2] == "files":
            return answer(200, '{"file": {"id": "x", "displayName": "out.ifc"}}')
        return answer(200, json.dumps({"run": run}))

    async with ExportClient("t", transport=Answers(serve)) as client:
        paths = await client.attach("c1", "r1").download(tmp_path)
        named = await client.attach("c1", "r1").download(tmp_path / "b.ifc")
    assert [path.name for path in paths] == ["out.ifc", "out-2.ifc", "out-3.ifc"]
    assert [path.name for path in named] == ["b.ifc", "b-2.ifc", "b-3.ifc"]


async def test_an_output_that_is_called_as_a_part_does_not_grow_another(tmp_path: Path) -> None:
    names = {"a": "x.ifc.part", "b": "x.ifc"}
    tasks = [{"id": n, "state": "Completed", "exportOutputFileId": n} for n in names]
    jobs = [{"id": "j", "state": "Completed", "tasks": tasks}]
    run = {"id": "r1", "state": "Completed", "result": "Success", "jobs": jobs}

    def serve(request: Request) -> Response:
        *_, before, last = request.url.partition("?")[0].split("/")
        if "blobs" in request.url:
            return answer(200, last * 7, Content_Length="7")
        if last == "download":
            return answer(302, Location=f"https://blobs.example/{before}")
        if before == "files":
            return answer(200, json.dumps({"file": {"id": last, "displayName": names[last]}}))
        return answer(200, json.dumps({"run": run}))

    async with ExportClient("t", transport=Answers(serve)) as client:
        for _ in range(2):  # the second time, the first one's files are there
            paths = await client.attach("c1", "r1").download(tmp_path)
            assert [path.name for path in paths] == ["x.ifc.part_", "x.ifc"]
            assert [path.read_text() for path in paths] == ["a" * 7, "b" * 7]


async def test_a_file_without_a_composite_id_is_tried_as_it_is(tmp_path: Path) -> None:
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


async def test_an_output_id_that_is_none_is_told(tmp_path: Path) -> None:
    run = RUNNING.replace("Executing", "Completed").replace(
        "}}", ', "jobs": [{"id": "j", "state": "Completed", "tasks": [{"id": "t", "state": '
        '"Completed", "exportOutputFileId": ".."}]}], "result": "Success"}}'
    )  # fmt: skip
    async with ExportClient("t", transport=Answers(answer(200, run))) as client:
        with pytest.raises(DownloadError, match=r"exportOutputFileId '\.\.' is not an id"):
            await client.attach("c1", "r1").download(tmp_path)


async def test_what_was_done_of_a_partial_success_is_fetched(tmp_path: Path) -> None:
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
async def test_a_connection_that_cannot_be_read_ends_no_waiting(
    run: RunHandle, emulator: Emulator, tmp_path: Path, status: int
) -> None:
    missing = answer(404, '{"error": {"code": "FileNotFound", "message": "not yet"}}')
    emulator.inject("get_connection", *[answer(status, "planted")] * 9)
    emulator.inject("get_file", missing, missing, missing)
    (path,) = await run.download(tmp_path)
    assert path.read_bytes() == content(run, emulator)


async def test_a_connection_that_cannot_be_read_is_told_with_what_was_tried(
    run: RunHandle, emulator: Emulator, tmp_path: Path
) -> None:
    emulator.inject("get_connection", answer(403, "not yours"))
    emulator.inject("get_file", *[answer(404, "{}")] * 100)
    said = r"tried as \S+ for 30 s; no composite id without the connection: 403: not yours"
    with pytest.raises(DownloadError, match=said) as caught:
        await run.download(tmp_path)
    assert isinstance(caught.value.__cause__, NotFound)


async def test_a_connection_that_is_gone_is_no_obstacle(
    run: RunHandle, client: ExportClient, emulator: Emulator, tmp_path: Path
) -> None:
    await client.delete_connection(run.connection_id)
    missing = answer(404, '{"error": {"code": "FileNotFound", "message": "not yet"}}')
    emulator.inject("download_file", missing, missing)
    (path,) = await run.download(tmp_path / "x.ifc")
    assert path.read_bytes() == content(run, emulator)


async def test_a_folder_that_cannot_be_written_is_named(
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


async def test_an_output_in_a_blob_of_ones_own_comes_from_there(
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


async def test_a_run_that_failed_wrote_no_blob(
    client: ExportClient, emulator: Emulator, tmp_path: Path
) -> None:
    imodel_id = emulator.add_imodel()
    emulator.plan_next_run(imodel_id, "Error")
    connection = await client.create_connection(imodel_id)
    run = await client.start_run(connection.id, user_blob_url(emulator.user_blob("a.ifc")))
    await run.wait(check=False)
    with pytest.raises(DownloadError, match="ended with Error and made no output; wait"):
        await run.download(tmp_path)


async def test_a_blob_that_is_not_there_yet_is_waited_for(
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
    with pytest.raises(DownloadError, match="still no such blob 30 s after the end") as caught:
        await run.download(tmp_path)
    assert isinstance(caught.value.__cause__, NotFound)
