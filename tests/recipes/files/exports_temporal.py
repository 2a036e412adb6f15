from temporalio import activity

from itwin_export_async import ExportClient, Run, RunStore


class Exports:
    """Activities. Give them a heartbeat_timeout longer than the longest polling interval:
    `ExportClient(schedule=AdaptiveSchedule(maximum=60))` and a timeout of 3 minutes."""

    def __init__(self, client: ExportClient, store: RunStore) -> None:
        self.client, self.store = client, store

    @activity.defn
    async def export_imodel(self, imodel_id: str, path: str) -> list[str]:
        info = activity.info()
        connection = await self.client.find_or_create_connection(imodel_id, display_name="temporal")
        run = await self.client.start_once(
            f"{info.workflow_id}/{info.activity_id}",
            connection.id,
            store=self.store,
            if_active="wait",
        )

        def beat(run: Run) -> None:
            activity.heartbeat(run.state.value)

        await run.wait(on_poll=beat)
        return [str(file) for file in await run.download(path)]
