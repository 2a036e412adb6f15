"""The plan of a stream: what it requests, and what responses and failures mean for it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from itwin_export_async import NotFound, RetryPolicy, ServerError, TransportError
from itwin_export_async._files.read_plan import (
    MIN_SPEED,
    SPEED_WINDOW,
    GivenUp,
    NextStep,
    ReadPlan,
    Speed,
)
from itwin_export_async._protocol.blobs import Content, SizesDiffer, UnusableContent
from itwin_export_async.transport import Response
from tests.support.fakes import answer

URL = "https://blobs.example/f"
RETRY = RetryPolicy(attempts=3, initial=1.0, jitter=lambda seconds: seconds)


def plan_of(
    start: int = 0,
    stop: int | None = None,
    if_range: str | None = None,
    *,
    size: int | None = None,
    can_ask_size: bool = False,
) -> ReadPlan:
    return ReadPlan.of(start, stop, if_range, size=size, can_ask_size=can_ask_size)


def whole(length: int = 10, etag: str = '"1"') -> Response:
    return Response(status=200, headers={"Content-Length": str(length), "ETag": etag})


def read(plan: ReadPlan, response: Response) -> tuple[ReadPlan, Content]:
    plan, content = plan.after_response(response)
    assert isinstance(content, Content)
    return plan, content


def test_broken_stream_is_resumed_at_its_next_byte_of_the_same_version() -> None:
    plan, content = read(plan_of(), whole())
    plan, _, fresh = plan.after_chunk(content, b"0123", 0)
    assert (fresh, plan.size, plan.end, plan.etag) == (b"0123", 10, 10, '"1"')
    request = plan.request(URL)
    assert (request.headers["Range"], request.headers["If-Match"]) == ("bytes=4-", '"1"')


@pytest.mark.parametrize("response", [answer(412), whole(etag='"2"')])
def test_bounds_of_another_version_are_dropped(response: Response) -> None:
    plan, step = plan_of(5, 8, '"1"').after_response(response)
    assert step is NextStep.REQUEST_AGAIN
    assert (plan.start, plan.end) == (0, None)
    assert "Range" not in plan.request(URL).headers


@pytest.mark.parametrize(
    ("headers", "step"),
    [({"Transfer_Encoding": "chunked"}, NextStep.ASK_SIZE), ({}, NextStep.NEED_SIZE)],
)
def test_storage_is_asked_once_for_a_length_that_the_store_does_not_give(
    headers: dict[str, str], step: NextStep
) -> None:
    response = answer(200, ETag='"1"', **headers)
    plan, first = plan_of(can_ask_size=True).after_response(response)
    assert first is step
    plan, _ = read(plan.with_storage_size(7), response)
    assert plan.size == 7


def test_stream_without_an_etag_repeats_its_beginning() -> None:
    plan, content = read(plan_of(), whole(etag=""))
    plan, _, _ = plan.after_chunk(content, b"0123", 0)
    assert "Range" not in plan.request(URL).headers
    plan, content = read(plan, whole(etag=""))
    assert plan.needs_digest
    assert plan.after_chunk(content, b"012345", 0)[1:] == (b"0123", b"45")


def test_version_that_was_known_must_stay_known() -> None:
    plan, content = read(plan_of(), whole())
    plan, _, _ = plan.after_chunk(content, b"0123", 0)
    with pytest.raises(UnusableContent, match="gives no ETag any more"):
        plan.after_response(whole(etag=""))


def test_bytes_beyond_the_length_are_an_error_unless_the_stream_ends_before() -> None:
    plan, content = read(plan_of(), whole(3))
    with pytest.raises(SizesDiffer, match="more than the 3 bytes"):
        plan.after_chunk(content, b"0123", 0)
    plan, content = read(plan_of(stop=3), whole(10))
    plan, _, fresh = plan.after_chunk(content, b"0123", 0)
    assert fresh == b"012"
    assert plan.is_past_end(content)


@given(
    file=st.binary(min_size=1, max_size=50),
    bounds=st.tuples(st.integers(0, 50), st.integers(0, 50)),
    sizes=st.lists(st.integers(1, 7), min_size=50, max_size=50),
)
def test_chunks_of_a_whole_blob_add_up_to_the_part(
    file: bytes, bounds: tuple[int, int], sizes: list[int]
) -> None:
    start, stop = sorted(min(bound, len(file)) for bound in bounds)
    plan, content = read(plan_of(start, stop), whole(len(file)))
    parts, offset = b"", 0
    for size in sizes:
        if plan.is_past_end(content) or offset >= len(file):
            break
        plan, _, fresh = plan.after_chunk(content, file[offset : offset + size], offset)
        parts, offset = parts + fresh, offset + size
    assert parts == file[start:stop]
    assert plan.state.is_complete


def test_waits_grow_until_no_attempt_is_left() -> None:
    plan, error = plan_of(), TransportError(message="reset")
    waits: list[float | GivenUp] = []
    for _ in range(3):
        plan = plan.after_failure(error)
        waits.append(plan.next_wait(error, RETRY, can_renew=True))
    assert waits[:2] == [1.0, 2.0]
    last = waits[2]
    assert isinstance(last, GivenUp)
    assert (last.reason, last.is_transient) == ("incomplete", True)


def test_retry_after_is_a_lower_bound_of_the_wait() -> None:
    error = ServerError(status=503, retry_after=17.0)
    plan = plan_of().after_failure(error)
    assert plan.next_wait(error, RETRY, can_renew=True) == 17.0
    error = ServerError(status=503, retry_after=1000.0)
    assert isinstance(plan.next_wait(error, RETRY, can_renew=True), GivenUp)


def test_missing_blob_is_not_requested_again() -> None:
    given_up = plan_of().next_wait(NotFound(status=404), RETRY, can_renew=True)
    assert isinstance(given_up, GivenUp)
    assert given_up.reason == "not_available"


def test_speed_is_judged_over_a_full_window() -> None:
    slow = Speed().after(SPEED_WINDOW - 1, 0)
    assert not slow.is_too_slow
    assert slow.after(1, 0).is_too_slow
    assert not slow.after(1, int(MIN_SPEED * SPEED_WINDOW)).is_too_slow
    assert slow.after(1, 0).after(1, 0) == Speed(1, 0)


def test_digest_of_a_part_is_not_needed_once_the_part_is_known_to_be_whole() -> None:
    headers = {"Transfer_Encoding": "chunked", "ETag": '"1"', "Content_MD5": "A" * 22 + "=="}
    plan, content = read(plan_of(stop=4), answer(200, **headers))
    plan, _, _ = plan.after_chunk(content, b"01", 0)
    resumed = answer(206, ETag='"1"', Content_Range="bytes 2-3/4")
    plan, _ = read(plan, resumed)
    assert (plan.size, plan.needs_digest) == (4, False)  # the first bytes are not in any
