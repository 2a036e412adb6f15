"""The recipes for streams, in memory."""

from collections.abc import AsyncIterable

import pytest

from itwin_export_async import DownloadError, ExportClient, ExportOptions, OutputOptions, RunHandle
from itwin_export_async.emulator import Emulator

fsspec = pytest.importorskip("fsspec")

from tests.recipes.streams import to_azure, to_fsspec, to_memory  # noqa: E402 - it needs fsspec


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


async def test_output_is_written_to_any_fsspec_url(run: RunHandle, emulator: Emulator) -> None:
    await to_fsspec(run, "memory://bucket/exports")
    files = fsspec.filesystem("memory")
    try:
        assert files.cat("/bucket/exports/Bridge.ifc") == content(run, emulator)
    finally:
        files.rm("/bucket", recursive=True)


async def test_output_that_breaks_off_leaves_no_file_at_the_url(
    run: RunHandle, emulator: Emulator
) -> None:
    emulator.inject("get_blob", None, truncate_after=100)
    emulator.inject("get_blob", *[403] * 5)
    with pytest.raises(DownloadError):
        await to_fsspec(run, "memory://bucket/exports")
    assert not fsspec.filesystem("memory").exists("/bucket/exports/Bridge.ifc")


async def test_output_is_uploaded_by_a_client_of_azure(run: RunHandle, emulator: Emulator) -> None:
    class Blob:
        data = b""
        length: int | None = None

        async def upload_blob(self, data: AsyncIterable[bytes], *, length: int | None) -> None:
            assert not hasattr(data, "read")  # Azure would call it with a size
            self.length = length
            async for chunk in data:
                self.data += chunk

    blob = Blob()
    await to_azure(run, blob)
    assert blob.data == content(run, emulator)
    assert blob.length == len(blob.data)


async def test_output_is_read_into_memory(run: RunHandle, emulator: Emulator) -> None:
    assert (await to_memory(run)).getvalue() == content(run, emulator)


async def test_output_is_written_to_azure_by_the_service_itself(
    client: ExportClient, emulator: Emulator
) -> None:
    output = OutputOptions(
        location="USER_BLOB_STORAGE",
        output_sas_url=emulator.user_blob("Bridge.ifc"),
    )
    connection = await client.create_connection(emulator.add_imodel("Bridge"))
    run = await client.start_run(connection.id, ExportOptions(output=output))
    await run.wait()
    assert (await to_memory(run)).getvalue().startswith(b"ISO-10303-21;")
