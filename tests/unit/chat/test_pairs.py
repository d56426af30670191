"""Conversations as sources and targets: what the encoder reads, and what is learnt."""

from collections.abc import Callable
from pathlib import Path

import pytest

from services.chat.conversation import Conversation, Message, Role
from services.chat.errors import NoLabeledTokens, TemplateUnsupported
from services.chat.pairs import PairEncoder

UNCUT = 10_000


@pytest.fixture
def encoder(model_directory: Callable[..., Path]) -> PairEncoder:
    return PairEncoder.load(model_directory(None))


talk = Conversation.of


def user(content: str) -> Message:
    return Message(Role.USER, content)


def answer(content: str, train: bool = True) -> Message:
    return Message(Role.ASSISTANT, content, train)


def test_the_words_of_a_lone_user_are_the_source_as_they_are(encoder: PairEncoder) -> None:
    (example,) = encoder.examples(talk(user("What is 2 + 2?"), answer("It is 4.")), UNCUT)

    assert encoder.decode(example.source_ids) == "What is 2 + 2?"
    assert encoder.decode(example.token_ids) == "It is 4."
    assert example.source_ids[-1] == example.token_ids[-1]
    assert {example.token_ids[-1]} == encoder.eos_token_ids
    assert all(example.labeled)
    assert not example.truncated


def test_each_trained_answer_is_an_example_with_all_before_it_as_its_source(
    encoder: PairEncoder,
) -> None:
    conversation = talk(
        Message(Role.SYSTEM, "Be brief."),
        user("France?"),
        answer("Paris.", train=False),
        user("And 2 + 2?"),
        answer("4."),
        user("Hello!"),
        answer("Hello."),
    )

    first, second = encoder.examples(conversation, UNCUT)

    told = "Be brief.\nUser: France?\nAssistant: Paris.\nUser: And 2 + 2?"
    assert encoder.decode(first.source_ids) == told
    assert encoder.decode(second.source_ids) == f"{told}\nAssistant: 4.\nUser: Hello!"
    assert [encoder.decode(one.token_ids) for one in (first, second)] == ["4.", "Hello."]
    assert second.source_ids == encoder.prompt(conversation[:-1])


def test_an_answer_is_cut_where_it_does_not_fit_beside_its_source(encoder: PairEncoder) -> None:
    conversation = talk(user("Hello!"), answer("Paris is the capital."))
    (whole,) = encoder.examples(conversation, UNCUT)
    limit = len(whole.source_ids) + 2

    (cut,) = encoder.examples(conversation, limit)

    assert cut.truncated
    assert cut.token_ids == whole.token_ids[:2]
    assert cut.source_ids == whole.source_ids
    exactly = len(whole.source_ids) + len(whole.token_ids)
    assert encoder.examples(conversation, exactly) == [whole]


def test_an_answer_whose_source_fills_the_limit_is_told_of_without_tokens(
    encoder: PairEncoder,
) -> None:
    conversation = talk(user("Hello!"), answer("Hello."), user("very " * 50), answer("Yes."))
    first, second = encoder.examples(conversation, UNCUT)
    limit = len(second.source_ids)

    kept, lost = encoder.examples(conversation, limit)

    assert kept == first
    assert (lost.token_ids, lost.labeled, lost.truncated) == ([], [], True)


def test_a_conversation_of_which_nothing_remains_is_refused(encoder: PairEncoder) -> None:
    with pytest.raises(NoLabeledTokens) as beyond:
        encoder.examples(talk(user("very " * 50), answer("Yes.")), 10)
    with pytest.raises(NoLabeledTokens) as untrained:
        encoder.examples(talk(user("Hello!"), answer("Yes.", train=False)), UNCUT)

    assert (beyond.value.truncated, untrained.value.truncated) == (True, False)


def test_a_tokenizer_without_an_end_is_of_no_use(model_directory: Callable[..., Path]) -> None:
    with pytest.raises(TemplateUnsupported, match="end-of-sequence"):
        PairEncoder.load(model_directory(None, eos_token=None))
