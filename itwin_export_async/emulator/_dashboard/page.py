"""The markup of the dashboard.

The script of the page requests the same markup again and merges what has changed.
"""

import base64
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from hashlib import sha256
from html import escape
from pkgutil import get_data
from typing import Any, TypeAlias

State: TypeAlias = Mapping[str, Any]

_PLACEHOLDER = "<!-- state -->"
_MAX_SEGMENT = 24  # characters of one segment of a path
_RESULTS = {"Success": "good", "PartialSuccess": "doubtful", "Canceled": "doubtful"}


class Html(str):
    """Markup: it is not escaped again."""

    __slots__ = ()


def element(name: str, *inner: str, **attributes: object) -> Html:
    """Return an element with texts, which are escaped, and markup, which is not.

    In the name of an attribute a trailing underscore is dropped and other underscores are hyphens.
    An attribute that is None is left out.
    """
    rendered = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{rendered}>{joined(inner)}</{name}>")


def joined(parts: Iterable[str]) -> Html:
    """Return texts, which are escaped, and markup, which is not, in a row."""
    return Html("".join(part if isinstance(part, Html) else escape(part) for part in parts))


@cache
def _frame() -> str:
    """Return the document around the state: its style and its script."""
    found = get_data(__package__, "page.html")
    assert found is not None
    return found.decode()


@cache
def policy() -> str:
    """Return the content security policy: the page's own script, and its own origin."""
    script = _frame().partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )


def page(state: State) -> str:
    """Return the whole document."""
    return _frame().replace(_PLACEHOLDER, fragment(state))


def fragment(state: State) -> Html:
    """Return the content of `main`. What the client must not do comes first."""
    return joined(
        [
            _section("violations", "Violations", state, _violations(state["violations"]))
            if state["violations"]
            else Html(),
            _overview(state),
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
    service, totals = state["service"], state["totals"]
    unmet = len(state["unmetFaults"])
    facts = [
        ("Address", element("code", service["address"])),
        ("Clock, UTC", _clock(service["now"])),
        ("Speed", joined([Html("&times; "), f"{service['speed']:g}"])),
        ("Tier", service["tier"] or "no limit"),
        ("Active runs", f"{totals['activeRuns']:,}"),
        *((_window(name), _share(calls)) for name, calls in state["calls"].items()),
        *([("Faults without a request", f"{unmet:,}")] if unmet else []),
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


def _window(name: str) -> str:
    """Return the label of a window such as `lastMinute` or `last6s`."""
    span = name.removeprefix("last")
    return f"Calls, last {span.lower() if span.isalpha() else span.replace('s', ' s')}"


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
        element("span", *_progress(run), class_="progress"),
        element("span", _clock(run["startDateTime"]), class_="when"),
    )
    ids = element("p", "run ", _id(run["id"]), " of connection ", _id(run["connectionId"]))
    jobs = _items(_job, run.get("jobs", ()))
    is_open = None if "endDateTime" in run else ""
    details = element("details", summary, ids, _failure(run), jobs, open=is_open)
    return element("li", details, class_="run", data_key=run["id"])


def _progress(run: State) -> Iterator[Html]:
    total = run["seconds"]
    if "endDateTime" in run:
        yield element("span", f"took {_duration(total, of=total)}")
        return
    elapsed = total * run["progress"]
    yield element("progress", value=f"{run['progress']:.3f}", max=1, aria_label="time elapsed")
    yield element("span", f"{_duration(elapsed, of=total)} of {_duration(total, of=total)}")


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
    """Return a list of the items, nothing if there are none."""
    return element("ul", *map(show, items)) if items else Html()


def _failure(item: State) -> Html:
    """Return the error of a run or a task, nothing without one."""
    if "error" not in item:
        return Html()
    error = item["error"]
    code = error.get("errorCode") or error["errorKey"]
    return element("p", f"{code}: {error['description']}", class_="failure")


def _state(item: State) -> Html:
    """Return state and result as text; the colour adds no information."""
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
            f"{violation['at']} {violation['kind']}",
            _clock(violation["at"]),
            violation["message"],
            _request(violation),
        )
        for violation in violations
    )
    return _table(("Time", "Violation", "Request"), rows)


def _requests(requests: list[State]) -> Html:
    rows = (
        (f"{record['number']}", _clock(record["at"]), _request(record), _answer(record))
        for record in requests
    )
    return _table(("Time", "Request", "Answer"), rows)


def _request(record: State) -> Html:
    short = "/".join(_shortened(part) for part in record["path"].split("/"))
    path = element("code", f"{record['method']} {short}", title=record["path"])
    return element("span", element("span", record["operation"]), path, class_="request")


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
    """Return a table. Each row is its key and then its cells."""
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
    """Return an id in a few characters, the last ones included. A copy of it is complete."""
    return element("code", element("span", text[:-4]), text[-4:], class_="id", title=text)


def _shortened(part: str) -> str:
    return part if len(part) <= _MAX_SEGMENT else f"{part[:3]}…{part[-4:]}"


def _clock(stamp: str) -> Html:
    """Return the time of day, to the second."""
    return element("time", stamp[11:19], datetime=stamp)


def _duration(seconds: float, *, of: float) -> str:
    """Format a duration in minutes and seconds, or in tenths if `of` is short."""
    if of < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
