"""Page tokens come back as they were made, or are refused."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.faults import InvalidArgument
from services.common.paging import Page, PageTokens, page_size, scope_of

TOKENS = PageTokens(b"a secret of 16 B")
SCOPE = scope_of("projects/default", "state = RUNNING", "create_time desc")

keys = st.lists(st.text(max_size=20) | st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4)


def refused(token: str, scope: str = SCOPE, tokens: PageTokens = TOKENS) -> bool:
    with pytest.raises(InvalidArgument) as caught:
        tokens.decode(token, scope=scope)
    assert caught.value.violations[0].field == "page_token"
    return caught.value.reason == "PAGE_TOKEN_INVALID"


@given(keys)
def test_a_token_gives_back_its_key(key: list[str | int]):
    assert TOKENS.decode(TOKENS.encode(key, scope=SCOPE), scope=SCOPE) == tuple(key)


@given(keys, st.data())
def test_an_edited_token_is_refused(key: list[str | int], data: st.DataObject):
    token = TOKENS.encode(key, scope=SCOPE)
    position = data.draw(st.integers(0, len(token) - 1))
    character = data.draw(st.characters().filter(lambda c: c != token[position]))

    assert refused(token[:position] + character + token[position + 1 :])


@given(st.text(max_size=100))
def test_any_other_text_is_refused(text: str):
    assert refused(text)


def test_a_token_of_another_list_or_another_server_is_refused():
    token = TOKENS.encode(["a"], scope=SCOPE)

    assert refused(token, scope=scope_of("projects/other", "state = RUNNING", "create_time desc"))
    assert refused(token, scope=scope_of("projects/default", "", "create_time desc"))
    assert refused(token, tokens=PageTokens(b"another secret..."))


def test_a_shorter_or_longer_spelling_of_a_token_is_refused():
    token = TOKENS.encode(["a", 1], scope=SCOPE)

    assert refused(token.rstrip("=")) or not token.endswith("=")
    assert refused(token + "=")
    assert refused(token + "\n")
    assert refused("")


def test_a_forged_body_does_not_keep_its_signature():
    signed = base64.urlsafe_b64decode(TOKENS.encode(["a"], scope=SCOPE))
    forged = signed.replace(b'"a"', b'"b"')

    assert refused(base64.urlsafe_b64encode(forged).decode())


def test_scopes_do_not_run_together():
    assert scope_of("ab", "c") != scope_of("a", "bc")


def test_a_short_secret_is_refused():
    with pytest.raises(ValueError, match="16 bytes"):
        PageTokens(b"short")


@pytest.mark.parametrize(("requested", "size"), [(0, 50), (1, 1), (1000, 1000), (5000, 1000)])
def test_a_page_size_is_coerced(requested: int, size: int):
    assert page_size(requested, default=50, maximum=1000) == size


def test_a_negative_page_size_is_refused():
    with pytest.raises(InvalidArgument, match="page_size"):
        page_size(-1, default=50, maximum=1000)


def test_a_page_ends_where_no_row_is_left():
    def key(row: int) -> tuple[int]:
        return (row,)

    assert Page.cut([1, 2, 3], 2, key) == Page((1, 2), (2,))
    assert Page.cut([1, 2], 2, key) == Page((1, 2), None)
    assert Page.cut([], 2, key) == Page((), None)
