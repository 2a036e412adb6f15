"""CPU of decoding the response to a poll, small and large, with orjson and without it.

Two processes do the work, interleaved; in one of them orjson cannot be imported. This module
imports nothing of the library, so that each process decides what is loaded.
"""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection
from typing import Any

from attrs import frozen

from benchmarks._support.interleave import Samples, rounds
from benchmarks._support.processes import child
from benchmarks._support.report import Report, format_number
from benchmarks._support.runs_server import run_with_tasks
from benchmarks._support.svg import Bar, Figure

BARE, OURS = "json.loads", "ours, to a Run"

Decoder = Callable[[bytes], Any]


@frozen(kw_only=True)
class Effort:
    """How many tasks the runs have, how many rounds there are, and the tasks decoded in a turn."""

    tasks: tuple[int, ...]
    rounds: int
    turn: int


FULL = Effort(tasks=(1, 100, 1_000, 10_000), rounds=12, turn=2_000)
QUICK = Effort(tasks=(1, 1_000), rounds=3, turn=1_000)


def run(effort: Effort) -> Report:
    """Decode everything in both processes, interleaved."""
    samples = {tasks: Samples() for tasks in effort.tasks}
    with child(measure_decoders, True) as fast, child(measure_decoders, False) as plain:
        workers = {name: worker for worker in (fast, plain) for name in worker.recv()}
        for tasks in effort.tasks:
            times = max(1, effort.turn // tasks)
            for name in rounds(tuple(workers), effort.rounds):
                workers[name].send((name, tasks, times))
                samples[tasks].add(name, workers[name].recv())
    return _report(samples)


def measure_decoders(ours: Connection, has_orjson: bool) -> None:
    """Send the names of the decoders, and then the times of each that is requested."""
    decoders = dict(_with_orjson() if has_orjson else _without())
    ours.send(tuple(decoders))
    for decoder in decoders.values():
        decoder(run_with_tasks(1))
    while True:
        name, tasks, times = ours.recv()
        ours.send(_microseconds(decoders[name], run_with_tasks(tasks), times))


def _microseconds(decode: Decoder, body: bytes, times: int) -> float:
    """CPU for decoding it once."""
    start = time.process_time()
    for _ in range(times):
        decode(body)
    return (time.process_time() - start) / times * 1e6


def _with_orjson() -> Iterator[tuple[str, Decoder]]:
    ours = _ours()
    is_used = "orjson" in sys.modules  # so far nothing else would have imported it

    import orjson

    from benchmarks._support.models import RunResponse

    yield "orjson.loads", orjson.loads
    yield f"{OURS}, orjson" if is_used else f"{OURS}, orjson not used", ours
    yield "pydantic", RunResponse.model_validate_json


def _without() -> Iterator[tuple[str, Decoder]]:
    import json

    sys.modules["orjson"] = None  # type: ignore[assignment]  # importing it fails from now on
    yield BARE, json.loads
    yield OURS, _ours()


def _ours() -> Decoder:
    from itwin_export_async._protocol.runs import parse_run
    from itwin_export_async.transport import Response

    return lambda body: parse_run(Response(status=200, body=body), "c1")


def _report(samples: Mapping[int, Samples]) -> Report:
    names = tuple(next(iter(samples.values())).values)
    most = max(samples)
    return Report(
        name="decoding",
        method=__doc__ or "",
        title="CPU of decoding a response, in microseconds, and relative to json.loads",
        head=("", *(word for tasks in samples for word in (f"tasks: {tasks:,}", "ratio"))),
        rows=tuple(
            (
                name,
                *(
                    word
                    for one in samples.values()
                    for word in (format_number(one.median(name)), str(one.ratio(name, BARE)))
                ),
            )
            for name in names
        ),
        bounds=("Checked values cannot cost less than the JSON read into dictionaries.",),
        values={
            f"{name}, {tasks:,} tasks, us": one.median(name)
            for tasks, one in samples.items()
            for name in names
        },
        figure=Figure(
            title=f"CPU of decoding {most:,} tasks, relative to json.loads",
            bars=tuple(
                Bar(
                    name=name,
                    value=samples[most].ratio(name, BARE).median,
                    label=f"{samples[most].ratio(name, BARE).median:.2f}",
                    is_ours=name.startswith(OURS),
                )
                for name in names
            ),
            ticks=(0.25, 0.5, 1, 2, 4, 8),
        ),
        caption="CPU of decoding a large response",
    )
