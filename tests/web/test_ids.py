"""SignedIds: ids that belong to one owner."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from itwin_export_async.web import SignedIds

IDS = SignedIds("the first secret")
TOKEN = "1.WyJleHBvcnQiXQ.si7_6w"


@given(token=st.from_regex(r"[\w.-]+", fullmatch=True), owner=st.text())
def test_id_is_verified_for_its_owner(token: str, owner: str) -> None:
    assert IDS.verify(IDS.sign(token, owner), owner) == token


@given(owner=st.text(), other=st.text())
def test_id_of_another_owner_does_not_exist(owner: str, other: str) -> None:
    id = IDS.sign(TOKEN, owner)
    if other != owner:
        with pytest.raises(LookupError):
            IDS.verify(id, other)


def test_id_is_safe_in_urls_and_shows_no_owner() -> None:
    id = IDS.sign(TOKEN, "someone@example.com")
    assert re.fullmatch(r"[\w.-]+", id, re.ASCII)
    assert "someone" not in id


@given(data=st.data())
def test_id_with_any_other_character_does_not_exist(data: st.DataObject) -> None:
    id = IDS.sign(TOKEN, "owner")
    position = data.draw(st.integers(0, len(id) - 1))
    character = data.draw(st.characters().filter(lambda c: c != id[position]))
    with pytest.raises(LookupError):
        IDS.verify(id[:position] + character + id[position + 1 :], "owner")


@given(text=st.text())
def test_any_other_text_does_not_exist(text: str) -> None:
    with pytest.raises(LookupError):
        IDS.verify(text, "owner")


def test_owner_and_token_cannot_be_shifted_into_each_other() -> None:
    id = IDS.sign("b", "a")
    signature = id.rpartition(".")[2]
    for token, owner in (("", "ab"), ("ab", ""), ("\0b", "a")):
        with pytest.raises(LookupError):
            IDS.verify(f"{token}.{signature}", owner)


def test_all_unknown_ids_have_one_text() -> None:
    texts = set()
    for id in ("x", IDS.sign(TOKEN, "you"), IDS.sign(TOKEN, "me")[:-1]):
        with pytest.raises(LookupError) as caught:
            IDS.verify(id, "me")
        texts.add(str(caught.value))
    assert texts == {"there is no such export"}


def test_secret_is_rotated_by_a_list() -> None:
    old = IDS.sign(TOKEN, "owner")
    rotated = SignedIds(["the second secret", "the first secret"])
    assert rotated.verify(old, "owner") == TOKEN
    new = rotated.sign(TOKEN, "owner")
    assert new != old
    assert SignedIds(b"the second secret").verify(new, "owner") == TOKEN
    with pytest.raises(LookupError):
        IDS.verify(new, "owner")


def test_every_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = SignedIds([letter * 16 for letter in "abc"])
    compared: list[bool] = []

    def compare(left: bytes, right: bytes) -> bool:
        compared.append(left == right)
        return left == right

    monkeypatch.setattr("hmac.compare_digest", compare)
    ids.verify(ids.sign(TOKEN, "owner"), "owner")
    assert compared == [True, False, False]


GOOD = "sixteen letters!"


@pytest.mark.parametrize("secret", ["", b"", [], [""], [GOOD, ""], [GOOD, None]])
def test_secret_that_is_empty_is_refused(secret: Any) -> None:
    with pytest.raises(ValueError, match="secret is empty"):
        SignedIds(secret)


@pytest.mark.parametrize("secret", [GOOD[1:], GOOD[1:].encode(), [GOOD, "planted"]])
def test_secret_that_is_short_is_refused_and_not_shown(secret: Any) -> None:
    SignedIds(GOOD)
    with pytest.raises(ValueError, match=r"shorter than 16 .*; give a long random text") as caught:
        SignedIds(secret)
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize("call", [IDS.sign, lambda _, owner: IDS.verify("a.b", owner)])
def test_owner_that_is_no_string_is_an_error(call: Callable[[str, Any], object]) -> None:
    for owner in (None, 7):
        with pytest.raises(TypeError, match="owner must be a string"):
            call(TOKEN, owner)


def test_secret_is_in_no_repr() -> None:
    ids = SignedIds("a planted secret")
    assert "planted" not in repr(ids) + repr(vars(ids))
