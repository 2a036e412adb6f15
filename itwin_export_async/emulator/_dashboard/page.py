"""The status page's markup: the one place where a state becomes HTML, for all who show it.

The script of the page asks for the same markup again and merges what has changed.
"""

import base64
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from hashlib import sha256
from pkgutil import get_data
from typing import Any, TypeAlias

from itwin_export_async.emulator._dashboard.html import Html, element, joined

State: TypeAlias = Mapping[str, Any]

_TO_BE_FILLED = "<!-- state -->"
_LONG = 24
_RESULTS = {"Success": "good", "PartialSuccess": "doubtful", "Canceled": "doubtful"}


@cache
def _frame() -> str:
    """The document around the state: its style and its script."""
    found = get_data(__package__, "status.html")
    assert found is not None
    return found.decode()


@cache
def policy() -> str:
    """What the page may do: run its own script, and ask where it came from."""
    script = _frame().partition("<script>")[2].partition("</script>")[0]
    seal = base64.b64encode(sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{seal}'; style-src 'unsafe-inline'; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'"
    )


def page(state: State) -> str:
    """The whole document."""
    return _frame().replace(_TO_BE_FILLED, state_html(state))


def state_html(state: State) -> Html:
    """What is inside its `main`."""
    return joined(
        [
            _overview(state),
            _section("violations", "Violations", state, _violations(state["violations"]))
            if state["violations"]
            else Html(),
            element(
                "div",
                _section("runs", "Runs", state, _run_list(state["runs"])),
                element("div", *_stock(state), class_="side"),
                _section("requests", "Requests", state, _requests(state["requests"])),
                class_="columns",
            ),
        ]
    )


def _stock(state: State) -> Iterator[Html]:
    yield _section("imodels", "iModels", state, _imodels(state["imodels"]))
    yield _section("connections", "Connections", state, _connections(state["connections"]))
    yield _section("files", "Files", state, _files(state["files"]))


def _overview(state: State) -> Html:
    service, totals, calls = state["service"], state["totals"], state["calls"]
    facts = [
        ("Address", element("code", service["address"])),
        ("Clock, UTC", _clock(service["now"])),
        ("Speed", joined([Html("&times; "), f"{service['speed']:g}"])),
        ("Tier", service["tier"] or "no limit"),
        ("Active runs", f"{totals['activeRuns']:,}"),
        ("Calls, last minute", _share(calls["lastMinute"])),
        ("Calls, last hour", _share(calls["lastHour"])),
    ]
    shown = (
        element("div", element("dt", name), element("dd", value), data_key=name)
        for name, value in facts
    )
    return element("dl", *shown, class_="facts")


def _share(calls: State) -> Html:
    made, allowed = calls["made"], calls["allowed"]
    if allowed is None:
        return Html(f"{made:,}")
    limits = {"max": allowed, "low": 0.75 * allowed, "high": 0.95 * allowed, "optimum": 0}
    meter = element("meter", value=made, aria_hidden="true", **limits)
    return joined([f"{made:,} of {allowed:,} ", meter])


def _section(name: str, title: str, state: State, content: Html) -> Html:
    total, shown = state["totals"][name], len(state[name])
    count = f"{total:,}" if shown == total else f"the latest {shown:,} of {total:,}"
    heading = element("h2", f"{title} ", _count(count), id=name)
    empty = element("p", f"No {title[0].lower()}{title[1:]} yet", class_="empty")
    return element(
        "section",
        heading,
        content if shown else empty,
        class_=f"{name}-section",
        aria_labelledby=name,
        data_key=name,
    )


def _run_list(runs: list[State]) -> Html:
    return element("ol", *map(_run, runs), class_="run-list")


def _run(run: State) -> Html:
    name = joined([element("strong", run["iModelName"]), " ", _quiet(run["service"])])
    summary = element(
        "summary",
        _state(run),
        element("span", name, class_="name"),
        element("span", *_course(run), class_="course"),
        element("span", _clock(run["startDateTime"]), class_="when"),
    )
    ids = element("p", "run ", _id(run["id"]), " of connection ", _id(run["connectionId"]))
    jobs = _items(_job, run.get("jobs", ()))
    is_open = None if "endDateTime" in run else ""
    details = element("details", summary, ids, _failure(run), jobs, open=is_open)
    return element("li", details, class_="run", data_key=run["id"])


def _course(run: State) -> Iterator[Html]:
    whole = run["seconds"]
    if "endDateTime" in run:
        yield element("span", f"took {_duration(whole, of=whole)}")
        return
    passed = whole * run["progress"]
    yield element("progress", value=f"{run['progress']:.3f}", max=1, aria_label="time passed")
    yield element("span", f"{_duration(passed, of=whole)} of {_duration(whole, of=whole)}")


def _job(job: State) -> Html:
    kind = f" job {job['connectorType']} " if "connectorType" in job else " job "
    tasks = _items(_task, job.get("tasks", ()))
    return element("li", _state(job), kind, _id(job["id"]), tasks, data_key=job["id"])


def _task(task: State) -> Html:
    parts = [_state(task), " task ", _id(task["id"])]
    if "storageFileId" in task:
        parts += [" reads ", _id(task["storageFileId"])]
    if "exportOutputFileId" in task:
        parts += [" made ", _id(task["exportOutputFileId"])]
    return element("li", *parts, _failure(task), data_key=task["id"])


def _items(show: Callable[[State], Html], items: Sequence[State]) -> Html:
    """A list of them, nothing if there are none."""
    return element("ul", *map(show, items)) if items else Html()


def _failure(item: State) -> Html:
    """What a run or a task failed with, nothing if it did not."""
    if "error" not in item:
        return Html()
    error = item["error"]
    code = error.get("errorCode") or error["errorKey"]
    return element("p", f"{code}: {error['description']}", class_="failure")


def _state(item: State) -> Html:
    """State and result in words; their colour says nothing more."""
    shown = [element("span", item["state"], class_="state")]
    if item["state"] == "Completed":
        shown += [Html(" "), element("span", item["result"], class_="result")]
    return element("span", *shown, class_="badge", data_tone=_tone(item))


def _tone(item: State) -> str:
    if item["state"] == "Completed":
        return _RESULTS.get(item["result"], "bad")
    return "busy" if item["state"] in ("Executing", "Finalizing") else "waiting"


def _imodels(imodels: list[State]) -> Html:
    rows = (
        (imodel["id"], _imodel(imodel), element("code", imodel["id"], class_="whole"))
        for imodel in imodels
    )
    return _table(("Name", "iModel id"), rows)


def _imodel(imodel: State) -> Html:
    name = joined([imodel["name"]])
    return name if imodel["authorized"] else joined([name, " ", _quiet("no access")])


def _connections(connections: list[State]) -> Html:
    rows = (
        (
            item["id"],
            joined([item["iModelName"], " ", _quiet(item["displayName"] or "unnamed")]),
            element("span", f"{item['service']}, {item['authenticationType']}", class_="kind"),
            _id(item["id"]),
        )
        for item in connections
    )
    return _table(("iModel, name", "Kind", "Id"), rows)


def _files(stored: list[State]) -> Html:
    rows = ((f["id"], f["path"], _clock(f["createdDateTime"]), _id(f["id"])) for f in stored)
    return _table(("Path", "Since", "Id"), rows)


def _violations(violations: list[State]) -> Html:
    rows = (
        (
            f"{violation['at']} {violation['what']}",
            _clock(violation["at"]),
            violation["words"],
            _asked(violation),
        )
        for violation in violations
    )
    return _table(("Time", "What the client must not do, and did", "Request"), rows)


def _requests(requests: list[State]) -> Html:
    rows = (
        (f"{record['number']}", _clock(record["at"]), _asked(record), _answer(record))
        for record in requests
    )
    return _table(("Time", "Request", "Answer"), rows)


def _asked(record: State) -> Html:
    short = "/".join(_shortened(part) for part in record["path"].split("/"))
    path = element("code", f"{record['method']} {short}", title=record["path"])
    return element("span", element("span", record["operation"]), path, class_="asked")


def _answer(record: State) -> Html:
    status = record["status"]
    tone = "bad" if status is None or status >= 500 else "doubtful" if status >= 400 else None
    text = "no answer" if status is None else str(status)
    shown = [element("span", text, class_="answer", data_tone=tone)]
    if record["fault"] is not None:
        shown += [Html(" "), element("em", record["fault"])]
    if record["seconds"]:
        shown += [Html(" "), _quiet(f"after {record['seconds']:.1f} s")]
    return joined(shown)


def _table(titles: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Html:
    """A table of rows, each its key and then its cells."""
    head = element("tr", *(element("th", title, scope="col") for title in titles))
    body = (
        element("tr", *(element("td", cell) for cell in cells), data_key=key)
        for key, *cells in rows
    )
    return element("table", element("thead", head), element("tbody", *body))


def _count(text: str) -> Html:
    return element("span", text, class_="count")


def _quiet(text: str) -> Html:
    return element("span", text, class_="quiet")


def _id(text: str) -> Html:
    """An id in few characters, which is whole when it is copied; its end tells it from others."""
    return element("code", element("span", text[:-4]), text[-4:], class_="id", title=text)


def _shortened(part: str) -> str:
    return part if len(part) <= _LONG else f"{part[:3]}…{part[-4:]}"


def _clock(stamp: str) -> Html:
    """The time of a moment, to the second."""
    return element("time", stamp[11:19], datetime=stamp)


def _duration(seconds: float, *, of: float) -> str:
    """Minutes and seconds, or seconds and their tenths where the whole is short."""
    if of < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
