"""The batch that the command line asks for."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from itwin_export_async import (
    ExportClient,
    ExportOptions,
    ExportOutcomes,
    ExportRequest,
    ItwinVersion,
)
from itwin_export_async.cli.options import ActiveRun


@frozen(kw_only=True)
class BatchArgs:
    """The exports: those of `file`, or `itwin` with its options.

    `ledger` None: no ledger. `concurrency`: exports at once. `timeout`: seconds of all together.
    """

    file: str | None = None
    itwin: str | None = None
    version: ItwinVersion = "latest"
    filename: str = "{imodel_name}.ifc"
    name: str | None = None
    search: str | None = None
    expected: int | None = None
    folder: str
    ledger: Path | None
    concurrency: int = 20
    ifc_version: str | None = None
    connection: str = "itwin-export"
    authentication_type: str | None = None
    if_active: str = ActiveRun.WAIT.value
    timeout: float | None = None
    keep_partial: bool = False
    report: Path | None = None
    json: bool = False

    def open_outcomes(
        self, client: ExportClient, requests: Sequence[ExportRequest], **callbacks: Any
    ) -> ExportOutcomes:
        """The outcomes of the batch; nothing is sent before the first is taken."""
        options: dict[str, Any] = {
            "concurrency": self.concurrency,
            "ledger": self.ledger,
            "authentication_type": self.authentication_type,
            "if_active": self.if_active,
            **callbacks,
        }
        if self.itwin is None:
            return client.export_many(requests, **options)
        return client.export_itwin(
            self.itwin,
            self.folder,
            version=self.version,
            name=self.name,
            search=self.search,
            filename=self.filename,
            options=ExportOptions(ifc_version=self.ifc_version),
            display_name=self.connection,
            expected=self.expected,
            **options,
        )
