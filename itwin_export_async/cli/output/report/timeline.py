"""Runs on a time line, as SVG with lengths in percent, so that it fits any page."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from html import escape

from attrs import frozen

from itwin_export_async import Job, Task
from itwin_export_async.cli.export_record import Record
from itwin_export_async.cli.output.format import count, duration

ROWS_DRAWN = 100  # more runs than that are drawn as how many there were at a time
_COLUMNS = 240


@frozen
class Span:
    """A span of time."""

    start: datetime
    end: datetime

    @property
    def seconds(self) -> float:
        """Its length; 0 for one that ends before it starts."""
        return max(0.0, (self.end - self.start).total_seconds())


def span_of(record: Record) -> Span | None:
    """The span of an export's run, by the service's clock where it is known; None for no run."""
    run = record.run
    start = (run and run.start_date_time) or record.started_at
    if run is None or start is None:
        return None
    last = record.finished_at or (record.states[-1][0] if record.states else start)
    return Span(start, run.end_date_time or max(last, start))


@frozen
class _Scale:
    whole: Span

    def x(self, moment: datetime) -> float:
        """The position of a moment, from 0 to 100."""
        fraction = Span(self.whole.start, moment).seconds / (self.whole.seconds or 1.0)
        return 100.0 * min(1.0, fraction)

    def bar(self, span: Span, kind: str, y: int, height: int, title: str) -> str:
        x = self.x(span.start)
        width = max(0.3, self.x(span.end) - x)
        return (
            f'<rect class="{kind}" x="{min(x, 99.7):.2f}%" y="{y}" width="{width:.2f}%" '
            f'height="{height}" rx="2"><title>{escape(title)}</title></rect>'
        )


def all_runs(records: Sequence[Record]) -> str:
    """All runs on one scale; empty without any."""
    spans = [(record, span) for record in records if (span := span_of(record)) is not None]
    if not spans:
        return ""
    whole = Span(min(s.start for _, s in spans), max(s.end for _, s in spans))
    spans.sort(key=lambda pair: pair[1].start)
    if len(spans) > ROWS_DRAWN:
        return _crowd(whole, [span for _, span in spans])
    scale = _Scale(whole)
    rows = [_run_row(scale, record, span) for record, span in spans]
    return _drawing(rows, 40, whole, "When each run ran")


def one_run(record: Record) -> str:
    """One run with its jobs and tasks; empty without a run."""
    span, run = span_of(record), record.run
    if span is None or run is None:
        return ""
    scale = _Scale(span)
    bars: list[tuple[str, str, Span]] = [(_kind("run", is_bad=record.failed), run.id, span)]
    for job in run.jobs:
        bars += _part_row("job", job)
        for task in job.tasks:
            bars += _part_row("task", task)
    rows = [
        _label(f"{kind.split()[0]} · {duration(part.seconds)} · {text}", 0.0)
        + scale.bar(part, kind, 18, 8, text)
        for kind, text, part in bars
    ]
    return _drawing(rows, 34, span, "When the run, its jobs and its tasks ran")


def _kind(kind: str, *, is_bad: bool) -> str:
    return f"{kind} bad" if is_bad else kind


def _part_row(kind: str, part: Job | Task) -> Iterator[tuple[str, str, Span]]:
    """Kind, result with id, and span of a job or task; nothing while that is not known."""
    if part.start_date_time is None or part.end_date_time is None:
        return
    is_bad = part.result is not None and part.result.is_failure
    text = f"{part.result.value if part.result else part.state.value} · {part.id}"
    yield _kind(kind, is_bad=is_bad), text, Span(part.start_date_time, part.end_date_time)


def _run_row(scale: _Scale, record: Record, span: Span) -> str:
    """A run, with finer lines for its jobs and tasks. The time until its first job is marked."""
    jobs = record.run.jobs if record.run is not None else ()
    starts = [job.start_date_time for job in jobs if job.start_date_time]
    executing = min(max(min(starts, default=span.start), span.start), span.end)
    parts = [_label(f"{record.name} · {duration(span.seconds)}", scale.x(span.start))]
    if executing > span.start:
        queued = Span(span.start, executing)
        parts.append(scale.bar(queued, "waiting", 18, 8, f"{record.name}: queued"))
    kind, text = _kind("run", is_bad=record.failed), f"{record.name}: {record.result}"
    parts.append(scale.bar(Span(executing, span.end), kind, 18, 8, text))
    for job in jobs:
        parts += _mark(scale, "job", job, 29)
        for task in job.tasks:
            parts += _mark(scale, "task", task, 33)
    return "".join(parts)


def _mark(scale: _Scale, kind: str, part: Job | Task, y: int) -> Iterator[str]:
    for style, text, span in _part_row(kind, part):
        yield scale.bar(span, style, y, 3, f"{kind} {text}")


def _label(text: str, x: float) -> str:
    anchor = ' text-anchor="end"' if x > 60 else ""
    at = 100.0 if x > 60 else x
    return f'<text x="{at:.2f}%" y="13"{anchor}>{escape(text)}</text>'


def _crowd(whole: Span, spans: Sequence[Span]) -> str:
    """The number of runs over time."""
    counts = _concurrent_runs(whole, spans)
    most, width = max(counts), 100 / _COLUMNS
    bars = [
        f'<rect class="run" x="{n * width:.2f}%" y="{160 - 140 * c / most:.1f}" '
        f'width="{width:.2f}%" height="{140 * c / most:.1f}"/>'
        for n, c in enumerate(counts)
        if c
    ]
    label = _label(f"up to {count(most, 'run')} at once", 0.0)
    return _drawing([label + "".join(bars)], 160, whole, "The number of runs over time")


def _concurrent_runs(whole: Span, spans: Iterable[Span]) -> list[int]:
    steps = [0] * (_COLUMNS + 1)
    scale = _Scale(whole)
    for span in spans:
        first = min(_COLUMNS - 1, int(scale.x(span.start) / 100 * _COLUMNS))
        steps[first] += 1
        steps[max(first + 1, int(scale.x(span.end) / 100 * _COLUMNS))] -= 1
    counts, now = [], 0
    for step in steps[:-1]:
        now += step
        counts.append(now)
    return counts


def _drawing(rows: Iterable[str], height: int, whole: Span, title: str) -> str:
    """The rows below each other. Each is a picture of its own, so that pages break between them."""
    lines = "".join(
        f'<line x1="{x}%" x2="{x}%" y1="0" y2="{height}"/>' for x in (0, 25, 50, 75, 100)
    )
    drawn = "".join(f'<svg width="100%" height="{height}">{lines}{row}</svg>' for row in rows)
    return (
        f'<div class="timeline" role="img" aria-label="{escape(title)}">{drawn}'
        f"<p><span>{whole.start:%Y-%m-%d %H:%M:%S} UTC</span>"
        f"<span>+ {duration(whole.seconds)}</span></p></div>"
    )
