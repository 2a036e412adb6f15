"""ResumeToken: its text, and every text that is not one."""

import json
import re
from base64 import urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from itwin_export_async._protocol.runs import Service
from itwin_export_async._runs.resume_token import ResumeToken
from tests.support.samples import NOW

ids = st.text("abcXYZ019-_%/ü ", min_size=1).filter(lambda text: text == text.strip())
tokens = st.builds(
    ResumeToken,
    service=st.sampled_from(Service),
    connection_id=ids,
    run_id=ids,
    deadline=st.none() | st.integers(-(10**10), 10**10).map(lambda n: NOW + timedelta(seconds=n)),
    just_created=st.booleans(),
)
TEXT = ResumeToken(service=Service.EXPORT, connection_id="c1", run_id="r1").to_string()


def forged(payload: Any) -> str:
    """A token with this payload and the right checksum."""
    text = urlsafe_b64encode(json.dumps(payload).encode()).decode().rstrip("=")
    checksum = urlsafe_b64encode(crc32(text.encode()).to_bytes(4, "big")).decode().rstrip("=")
    return f"1.{text}.{checksum}"


@given(tokens)
def test_resume_token_reads_what_it_writes(token: ResumeToken) -> None:
    assert ResumeToken.from_string(token.to_string()) == token


@given(tokens)
def test_resume_token_is_left_alone_by_urls_and_shells(token: ResumeToken) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_.][A-Za-z0-9_.-]*", token.to_string())


def test_resume_token_keeps_the_deadline_to_the_microsecond() -> None:
    deadline = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
    token = ResumeToken(service=Service.EXPORT, connection_id="c1", run_id="r1", deadline=deadline)
    read = ResumeToken.from_string(f" {token.to_string()}\n").deadline
    assert read is not None
    assert abs(read - deadline) < timedelta(microseconds=2)


@given(st.data())
def test_resume_token_with_a_changed_character_is_refused(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(TEXT) - 1))
    other = data.draw(st.characters().filter(lambda c: c != TEXT[at]))
    changed = TEXT[:at] + other + TEXT[at + 1 :]
    with pytest.raises(ValueError, match="not a valid resume token"):
        ResumeToken.from_string(changed)


@given(st.integers(0, len(TEXT) - 1))
def test_resume_token_that_was_cut_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="not a valid resume token"):
        ResumeToken.from_string(TEXT[:length])


@given(st.text() | st.binary() | st.none() | st.integers() | st.lists(st.text()))
def test_resume_token_of_anything_else_is_refused(text: Any) -> None:
    with pytest.raises(ValueError, match="not a valid resume token"):
        ResumeToken.from_string(text)


@pytest.mark.parametrize(
    "payload",
    [
        None,
        7,
        {},
        [],
        ["export", "c1", "r1", None],
        ["mesh", "c1", "r1", None, False],
        [[], "c1", "r1", None, False],
        ["export", "", "r1", None, False],
        ["export", "c1", {}, None, False],
        ["export", "c1", "..", None, False],
        ["export", "c1", "r1", 1e300, False],
        ["export", "c1", "r1", float("inf"), False],
        ["export", "c1", "r1", float("nan"), False],
        ["export", "c1", "r1", "soon", False],
        ["export", "c1", "r1", {}, False],
    ],
)
def test_resume_token_that_was_forged_is_refused(payload: Any) -> None:
    with pytest.raises(ValueError, match="not a valid resume token"):
        ResumeToken.from_string(forged(payload))


@pytest.mark.parametrize("text", ["2" + TEXT[1:], "x" * 100_000, "[" * 200_000])
def test_resume_token_error_is_short(text: str) -> None:
    with pytest.raises(ValueError, match="not a valid resume token") as caught:
        ResumeToken.from_string(text)
    assert len(str(caught.value)) < 250


def test_resume_token_with_a_bottomless_payload_is_refused() -> None:
    payload = urlsafe_b64encode(b"[" * 4000).decode().rstrip("=")
    checksum = urlsafe_b64encode(crc32(payload.encode()).to_bytes(4, "big")).decode().rstrip("=")
    with pytest.raises(ValueError, match="not a valid resume token"):
        ResumeToken.from_string(f"1.{payload}.{checksum}")
