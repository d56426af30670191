"""How much the loss counts each token: as much as its message weighs."""

from collections.abc import Callable
from pathlib import Path

import pytest

from services.chat.conversation import Conversation, Message, Role
from services.chat.encoder import ChatEncoder
from services.chat.pairs import PairEncoder
from tests.unit.chat.test_encoder import PLAIN, TAGGED

CONVERSATION = Conversation.of(
    Message(Role.USER, "France?"),
    Message(Role.ASSISTANT, "Paris.", train=True, weight=0.5),
    Message(Role.USER, "Sure?"),
    Message(Role.ASSISTANT, "Maybe."),
    Message(Role.USER, "Really?"),
    Message(Role.ASSISTANT, "Yes.", train=True, weight=2.0),
    Message(Role.USER, "And 2 + 2?"),
    Message(Role.ASSISTANT, "4.", train=True),
)


@pytest.mark.parametrize("template", [PLAIN, TAGGED])
def test_tokens_weigh_what_their_message_does(
    template: str, encoder_with: Callable[[str], ChatEncoder]
) -> None:
    encoder = encoder_with(template)
    example = encoder.encode(CONVERSATION, 999)

    pairs = list(zip(example.token_ids, example.weights, strict=True))
    said = {w: encoder.decode(i for i, of_it in pairs if of_it == w) for w in (0.5, 1.0, 2.0)}
    assert said == {0.5: "Paris.", 2.0: "Yes.", 1.0: "4."}
    assert set(example.weights) == {0.0, *said}
    assert example.labeled == [weight > 0 for weight in example.weights]


def test_where_each_label_counts_1_there_are_no_weights(
    encoder_with: Callable[[str], ChatEncoder],
) -> None:
    encoder = encoder_with(TAGGED)
    unweighted = CONVERSATION[6:]
    assert encoder.encode(unweighted, 999).weights == []

    longer = Conversation.of(*unweighted, *CONVERSATION[:2])
    whole = encoder.encode(longer, 999)
    beyond = whole.weights.index(0.5)
    assert encoder.encode(longer, beyond).weights == []


def test_each_answer_of_a_pair_weighs_what_its_message_does(
    model_directory: Callable[..., Path],
) -> None:
    examples = PairEncoder.load(model_directory(None)).examples(CONVERSATION, 999)

    assert [set(example.weights) for example in examples] == [{0.5}, {2.0}, set()]
    assert [len(e.weights) for e in examples[:2]] == [len(e.token_ids) for e in examples[:2]]


@pytest.mark.parametrize("weight", [0.0, -1.0, 0.0009, 1000.1, float("nan"), float("inf")])
def test_a_weight_out_of_bounds_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match=r"a weight is 0\.001 to 1000"):
        Message(Role.ASSISTANT, "Yes.", train=True, weight=weight)


def test_a_message_that_is_not_trained_on_has_no_weight() -> None:
    with pytest.raises(ValueError, match="has no weight"):
        Message(Role.ASSISTANT, "Yes.", weight=0.5)
    assert Message(Role.ASSISTANT, "Yes.").loss_weight == 0
