"""What a format writes it reads again, and it is the same."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from services.chat.conversation import Content, Conversation, Preference
from services.dataset.domain.formats.catalogue import FORMATS, format_of
from services.dataset.domain.formats.chat import with_ids
from services.dataset.domain.formats.rows import CannotHold
from services.dataset.domain.resources import SourceFormat
from services.dataset.domain.strict_json import parse
from tests.unit.dataset.formats.conversations import chats, plain_chats, preferences, words

quick = settings(max_examples=25, deadline=None)


def again(name: SourceFormat, content: Content) -> Content:
    """Written, told by its fields, and read, by way of the bytes of a line."""
    known = FORMATS[name]
    row: Any = parse(json.dumps(known.write(content)).encode())
    assert format_of(row) is name
    assert known.write(known.read(row)) == row
    return known.read(row)


@quick
@given(chats())
def test_a_chat_row_holds_every_conversation(conversation: Conversation):
    assert again(SourceFormat.CHAT, conversation) == conversation


@quick
@given(chats(ids=False))
def test_a_sharegpt_row_holds_what_has_no_ids_and_no_names(conversation: Conversation):
    assert again(SourceFormat.SHAREGPT, conversation) == conversation


@quick
@given(chats(ids=False))
def test_what_comes_from_sharegpt_is_a_chat_with_ids(conversation: Conversation):
    read = again(SourceFormat.CHAT, conversation)

    assert isinstance(read, Conversation)
    assert list(read) == with_ids(conversation.messages)
    assert again(SourceFormat.SHAREGPT, read) == conversation


@quick
@given(plain_chats(parts=True))
def test_an_alpaca_row_holds_questions_and_their_answers(conversation: Conversation):
    assert again(SourceFormat.ALPACA, conversation) == conversation


@quick
@given(plain_chats())
def test_a_chatml_text_holds_turns_of_text(conversation: Conversation):
    assert again(SourceFormat.CHATML, conversation) == conversation


@quick
@given(chats())
def test_a_prompt_and_its_completion_hold_a_conversation(conversation: Conversation):
    first = next(i for i, message in enumerate(conversation) if message.train)
    learnt = Conversation(conversation.messages, conversation.tools)

    read = again(SourceFormat.PROMPT_COMPLETION, learnt)

    assert read == learnt
    assert isinstance(read, Conversation)
    assert not any(message.train for message in read[:first])


@quick
@given(words)
def test_a_text_row_holds_a_text(text: str):
    assert FORMATS[SourceFormat.TEXT].read(FORMATS[SourceFormat.TEXT].write(text)) == text


@quick
@given(preferences())
def test_a_preference_row_holds_a_preference(preference: Preference):
    assert again(SourceFormat.PREFERENCE, preference) == preference


@quick
@given(st.sampled_from(list(SourceFormat)), chats())
def test_what_a_format_writes_it_can_read(name: SourceFormat, conversation: Conversation):
    """Or it says what it cannot hold."""
    try:
        row = FORMATS[name].write(conversation)
    except CannotHold:
        return
    FORMATS[name].read(row)
