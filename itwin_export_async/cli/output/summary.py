"""The end of a batch in words: equal failures together, then the counts. Pure."""

from collections.abc import Iterator, Sequence

from itwin_export_async.cli.errors import failed_tasks, failure_group, hint, summary_line
from itwin_export_async.cli.export_record import Record, Status
from itwin_export_async.cli.output.format import count, duration, size

MAX_GROUPS = 20  # of equal failures, that are shown
MAX_NAMES = 5  # of the exports in one group


def count_by_status(records: Sequence[Record]) -> dict[Status, int]:
    """How many exports have each status, in a fixed order."""
    counts = dict.fromkeys(Status, 0)
    for record in records:
        counts[record.status] += 1
    return counts


def group_failures(records: Sequence[Record]) -> list[list[Record]]:
    """The failed exports, with equal failures together, the largest groups first."""
    groups: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        if record.failed and record.error is not None:
            groups.setdefault(failure_group(record.error), []).append(record)
    return sorted(groups.values(), key=len, reverse=True)


def failure_lines(records: Sequence[Record]) -> Iterator[str]:
    """The failures of a batch, each group once."""
    groups = group_failures(records)
    failed = sum(map(len, groups))
    if not failed:
        return
    yield f"{failed:,} of {count(len(records), 'export')} failed:\n"
    for group in groups[:MAX_GROUPS]:
        yield format_failure(group)
    if len(groups) > MAX_GROUPS:
        more = len(groups) - MAX_GROUPS
        yield f"  and {count(more, 'other kind')} of failure; see --report or --json\n"


def format_failure(group: Sequence[Record]) -> str:
    """Equal failures: which exports, what happened, and what to do."""
    record = group[0]
    assert record.error is not None
    tasks = failed_tasks(record.error)
    lines = [
        summary_line(record.error),
        *(f"also {task.reason}" for task in tasks[1:]),
        *(f"log: {line}" for line in record.log_errors),
        *(f"see {link}" for link in dict.fromkeys(task.link for task in tasks) if link),
        *_runs(group),
        f"-> {hint(record.error)}\n",
    ]
    return "\n    ".join([f"  {_title(group)}", *lines])


def _runs(group: Sequence[Record]) -> Iterator[str]:
    """The runs of equal failures, which Bentley's support asks for."""
    for record in group[:MAX_NAMES]:
        if record.run_id:
            yield f"run {record.run_id} of connection {record.connection_id}"


def _title(group: Sequence[Record]) -> str:
    if len(group) == 1:
        record = group[0]
        same = record.imodel_id is None or record.name == record.imodel_id
        return record.name if same else f"{record.name}: {record.imodel_id}"
    names = ", ".join(record.name for record in group[:MAX_NAMES])
    more = f" and {len(group) - MAX_NAMES:,} more" if len(group) > MAX_NAMES else ""
    return f"{len(group):,} exports: {names}{more}"


def total_line(records: Sequence[Record], *, seconds: float, folder: str) -> str:
    """The counts of a batch in one line."""
    counts = count_by_status(records)
    files = [file for record in records if not record.was_done_before for file in record.files]
    parts = [f"{counts[Status.SUCCEEDED]:,} of {count(len(records), 'export')} done"]
    others = {status: number for status, number in counts.items() if number}
    others.pop(Status.SUCCEEDED, None)
    parts += [f"{number:,} {status.value}" for status, number in others.items()]
    total = f"{count(len(files), 'file')}, {size(sum(file.size or 0 for file in files))}"
    return f"{', '.join(parts)} in {duration(seconds)}: {total} in {folder}"


def resume_hints(
    records: Sequence[Record], *, command: str | None, is_piped: bool, has_given_up: bool
) -> Iterator[str]:
    """How a batch that has not done everything continues.

    `command` gives it again, None without a ledger. `is_piped`: it has read standard input.
    """
    left = sum(record.finished_at is None for record in records)
    failed = sum(record.failed for record in records)
    if has_given_up and left:
        yield f"{count(left, 'export')} not tried: they would fail in the same way"
    if (left or failed) and command is not None:
        what = "this continues" if left else "this retries what failed"
        yield f"{what}{' (with the same lines)' if is_piped else ''}:\n  {command}"
    elif left and not has_given_up:
        yield (
            f"{count(left, 'export')} not finished; runs that were started continue at the "
            "service. Without --no-ledger the same command would continue from here."
        )
