"""The body of a job on any queue. Delivered again, also after a crash, it starts nothing twice."""

from itwin_export_async import ExportClient, RunStore


async def export(
    client: ExportClient, store: RunStore, job_id: str, imodel_id: str, path: str
) -> list[str]:
    connection = await client.find_or_create_connection(imodel_id, display_name="jobs")
    run = await client.start_once(job_id, connection.id, store=store, if_active="wait")
    await run.wait()
    return [str(file) for file in await run.download(path)]
