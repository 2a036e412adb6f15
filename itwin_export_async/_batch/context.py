"""What the exports of one call share, and what each one notes."""

from attrs import define, field

from itwin_export_async._batch.entries import Entry
from itwin_export_async._batch.ledger import Ledger
from itwin_export_async._batch.ledger_rows import HistoryLine
from itwin_export_async._batch.outage import OutageRetrier
from itwin_export_async._batch.output_paths import OutputPaths
from itwin_export_async._models import AuthenticationType
from itwin_export_async._models.validators import parse_authentication_type
from itwin_export_async._runs.consent import Consent
from itwin_export_async._runs.handle import RunContext
from itwin_export_async._runs.starter import IfActive, validate_if_active


@define(eq=False, kw_only=True)
class BatchContext:
    """What all exports of one call share. `ledger` None: nothing is noted."""

    runs: RunContext
    consent: Consent
    outage: OutageRetrier
    if_active: IfActive = field(converter=validate_if_active)
    authentication_type: AuthenticationType | None = field(
        default=None, converter=parse_authentication_type
    )
    ledger: Ledger | None = None
    paths: OutputPaths = field(factory=OutputPaths)


@define(eq=False, kw_only=True)
class Record:
    """The entry of one export, in the ledger if there is one."""

    entry: Entry
    ledger: Ledger | None

    async def save(self, entry: Entry, line: HistoryLine | None = None) -> None:
        """Note a step, and with it a line of history if there is one."""
        self.entry = entry  # before the write, so that a timeout during it does not lose the state
        if self.ledger is not None:
            await self.ledger.write(entry, line)
