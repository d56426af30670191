"""Whatever a row holds, it is read or its flaws are told."""

import copy
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from services.chat.conversation import Conversation
from services.dataset.domain.flaws import BadLine
from services.dataset.domain.formats import chat
from services.dataset.domain.formats.catalogue import FORMATS, format_of
from services.dataset.domain.formats.detection import propose
from services.dataset.domain.resources import SourceFormat
from tests.unit.dataset.formats.conversations import chats, plain_chats, preferences

WORDS = ["user", "assistant", "tool", "system", "human", "gpt", "function_call", "observation"]
WORDS += ["role", "content", "weight", "train", "a", "", "c1", "0-0", "{}", "[]", "<|im_start|>"]
WORDS += ['[{"name": "a"}]', '{"name": "a", "arguments": {}}', "<|im_start|>user\na<|im_end|>"]

scalars = st.sampled_from([*WORDS, None, True, False, 0, 1, 0.5, -1, 1e300])
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=3)
    ),
    max_leaves=6,
)
KINDS = {
    SourceFormat.CHAT: chats(),
    SourceFormat.SHAREGPT: chats(ids=False),
    SourceFormat.PROMPT_COMPLETION: chats(),
    SourceFormat.ALPACA: plain_chats(parts=True),
    SourceFormat.CHATML: plain_chats(),
    SourceFormat.PREFERENCE: preferences(),
}


@st.composite
def spoilt(draw: st.DrawFn) -> tuple[SourceFormat, dict[str, Any]]:
    """A good row of a format, in which up to three things have been changed."""
    name = draw(st.sampled_from(list(KINDS)))
    row = copy.deepcopy(FORMATS[name].write(draw(KINDS[name])))
    for _ in range(draw(st.integers(0, 3))):
        _spoil(draw, row)
    return name, row


def _spoil(draw: st.DrawFn, place: Any) -> None:
    """Goes down to some place, and changes, removes, doubles or adds what is there."""
    keys = list(place) if isinstance(place, dict) else list(range(len(place)))
    if not keys:
        return
    key = draw(st.sampled_from(keys))
    if isinstance(place[key], dict | list) and draw(st.integers(0, 3)):
        _spoil(draw, place[key])
        return
    match draw(st.integers(0, 3)):
        case 0:
            del place[key]
        case 1 if isinstance(place, list):
            place.insert(key, copy.deepcopy(place[key]))
        case 1:
            place[draw(st.sampled_from(WORDS))] = draw(values)
        case _:
            place[key] = draw(values)


@settings(max_examples=150, deadline=None)
@given(spoilt())
def test_a_row_is_read_or_has_flaws(spoilt_row: tuple[SourceFormat, dict[str, Any]]):
    name, row = spoilt_row
    try:
        content = FORMATS[name].read(row)
    except BadLine:
        return
    if isinstance(content, Conversation):
        assert content[-1].role.value == "assistant"
        assert len(chat.read(chat.write(content))) == len(content)
    else:
        assert FORMATS[name].read(FORMATS[name].write(content)) == content


@settings(max_examples=50, deadline=None)
@given(st.lists(spoilt().map(lambda pair: pair[1]), min_size=1, max_size=3))
def test_something_is_proposed_for_every_table(table: list[dict[str, Any]]):
    assert format_of(table[0]) in FORMATS
    assert propose(table).row_count == len(table)
