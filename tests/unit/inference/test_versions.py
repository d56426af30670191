"""Versions of every method answer as the network that was trained, and none disturbs another."""

import itertools
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from services.chat.conversation import Conversation, Message, Role
from services.chat.encoder import ChatEncoder
from services.chat.pairs import PairEncoder
from services.inference.domain.generation import FinishReason, Sampling
from services.inference.worker.errors import ContextExceeded
from services.inference.worker.language_model import CONTEXT_WITHOUT_POSITIONS
from services.inference.worker.model import ResidentModel
from services.inference.worker.versions import Versions, load_language_model
from tests.unit.inference.conftest import CONTEXT, METHODS, VOCABULARY, Family, tuned

QUESTION = Conversation.of(Message(Role.USER, "What is red?"))
ANSWERED = Conversation.of(*QUESTION, Message(Role.ASSISTANT, "A colour.", train=True))
TWICE_ANSWERED = Conversation.of(
    *ANSWERED,
    Message(Role.USER, "Yes?"),
    Message(Role.ASSISTANT, "It is.", train=True),
)
SAMPLING = Sampling(max_output_tokens=12)
EOS = 1

Families = Callable[[str], Family]


def answered_with(text: str, prompt: Conversation) -> Conversation:
    return Conversation.of(*prompt, Message(Role.ASSISTANT, text, train=True))


def answer(model: ResidentModel, artifacts: Path | None, sampling: Sampling = SAMPLING) -> str:
    pieces: list[str] = []
    place = None if artifacts is None else str(artifacts)
    model.generate(place, QUESTION, sampling, pieces.append, lambda: False)
    return "".join(pieces)


def score(
    model: ResidentModel, artifacts: Path | None, conversation: Conversation = ANSWERED
) -> tuple[float, int]:
    return model.score(None if artifacts is None else str(artifacts), conversation)


@torch.no_grad()
def generated(network: Any, directory: Path, first: Sequence[int]) -> str:
    """What transformers itself generates; `first` are the ids that stand before the answer."""
    pairs = network.config.is_encoder_decoder
    encoder = (PairEncoder if pairs else ChatEncoder).load(directory)
    prompt = encoder.prompt(QUESTION)
    ids = network.generate(
        input_ids=torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=SAMPLING.max_output_tokens,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=EOS,
    )[0].tolist()
    return encoder.decode(ids[len(first) if pairs else len(prompt) :])


@torch.no_grad()
def nats(network: Any, directory: Path) -> float:
    """The loss that transformers itself computes, summed over the answer's tokens."""
    if network.config.is_encoder_decoder:
        (example,) = PairEncoder.load(directory).examples(ANSWERED, max_tokens=1000)
        ids = example.source_ids
        labels = torch.tensor([example.token_ids])
    else:
        example = ChatEncoder.load(directory).encode(ANSWERED, max_tokens=1000)
        ids = example.token_ids
        labels = torch.tensor([ids]).masked_fill(~torch.tensor([example.labeled]), -100)
    loss = network(input_ids=torch.tensor([ids]), labels=labels).loss
    return float(loss) * int((labels >= 0).sum())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["llama", "gpt2", "t5"])
def test_a_version_answers_as_the_network_that_was_trained(
    family: Families, name: str, method: str
) -> None:
    base = family(name)
    version = base.version(method)

    text = answer(base.serving, version.directory)
    loss_sum, token_count = score(base.serving, version.directory)

    assert text == generated(version.network, base.directory, first=[0])
    assert loss_sum == pytest.approx(nats(version.network, base.directory), rel=1e-4)
    assert token_count == len("A colour.") + 1
    assert loss_sum != score(base.serving, None)[0]


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_no_version_changes_what_another_or_the_base_answers(family: Families, name: str) -> None:
    base = family(name)
    model = ResidentModel(base.directory)
    places = [None, *(base.version(method).directory for method in METHODS)]
    warm = Sampling(max_output_tokens=3, temperature=1.0, seed=3)

    def asked(place: Path | None) -> tuple[tuple[float, int], str]:
        return score(model, place), answer(model, place, warm)

    first = {place: asked(place) for place in places}

    for one, other in itertools.permutations(places, 2):
        assert asked(one) == first[one]
        assert asked(other) == first[other]
    assert len({value for value, _ in first.values()}) == len(places)


def test_a_version_that_peft_saved_answers_too(family: Families, tmp_path: Path) -> None:
    base = family("llama")
    for method in ("dora", "projected prefix", "houlsby"):
        version = base.version(method)
        version.network.save_pretrained(tmp_path / method)

        assert score(base.serving, tmp_path / method) == score(base.serving, version.directory)


def test_a_version_with_all_its_own_weights_keeps_its_own_tokenizer(
    family: Families, tmp_path: Path
) -> None:
    base = family("llama")
    version = tuned(METHODS["full"], base.directory, tmp_path)
    template = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    (tmp_path / "chat_template.jinja").write_text(template)

    prompts = [
        base.serving.generate(place, QUESTION, SAMPLING, lambda _: None, lambda: False)
        for place in (None, str(version.directory))
    ]

    assert [p and p.prompt_tokens for p in prompts] == [
        len("What is red?") + 4,  # begin, user, end, assistant
        len("What is red?") + 1,
    ]


def test_two_whole_models_at_most_stay_in_memory(family: Families, tmp_path: Path) -> None:
    base = family("llama")
    versions = Versions(base.directory)
    places = [tmp_path / str(number) for number in range(3)]
    for place in places:
        place.mkdir()
        tuned(METHODS["full"], base.directory, place)

    networks = [weakref.ref(versions.model(place).network) for place in places]

    assert [network() is not None for network in networks] == [False, True, True]


def test_an_adapter_uses_the_weights_of_the_base(family: Families) -> None:
    base = family("llama")
    versions = Versions(base.directory)
    shared = [parameter.data_ptr() for parameter in versions.model(None).network.parameters()]
    whole = sum(parameter.numel() for parameter in versions.model(None).network.parameters())

    for method in ("lora", "prefix", "houlsby"):
        network = versions.model(base.version(method).directory).network
        own = [p for p in network.parameters() if p.data_ptr() not in shared]
        assert sum(p.numel() for p in own) < 0.2 * whole


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_causal_model_takes_as_many_tokens_as_it_has_positions(
    family: Families, name: str
) -> None:
    model = family(name).serving
    room = 5
    prompt = Conversation.of(Message(Role.USER, "x" * (CONTEXT - 4 - room)))
    never = Sampling(max_output_tokens=50, temperature=2.0, seed=0)

    answered = model.generate(None, prompt, never, lambda _: None, lambda: False)

    assert answered is not None
    assert (answered.output_tokens, answered.finish_reason) == (room, FinishReason.LENGTH)
    with pytest.raises(ContextExceeded) as caught:
        model.score(None, answered_with("y" * room, prompt))
    assert (caught.value.tokens, caught.value.limit) == (CONTEXT + 1, CONTEXT)
    too_long = Conversation.of(Message(Role.USER, "x" * CONTEXT))
    with pytest.raises(ContextExceeded):
        model.generate(None, too_long, never, lambda _: None, lambda: False)


def test_a_source_is_limited_although_an_encoder_decoder_has_no_positions(family: Families) -> None:
    model = family("t5").serving
    source = Conversation.of(Message(Role.USER, "x" * CONTEXT_WITHOUT_POSITIONS))

    with pytest.raises(ContextExceeded) as caught:
        model.generate(None, source, SAMPLING, lambda _: None, lambda: False)

    assert caught.value.tokens == CONTEXT_WITHOUT_POSITIONS + 1
    assert caught.value.limit == CONTEXT_WITHOUT_POSITIONS
    with pytest.raises(ContextExceeded):
        model.score(None, answered_with("no", source))


def test_every_answer_of_a_conversation_counts_with_an_encoder_decoder(family: Families) -> None:
    model = family("t5").serving

    first, first_count = model.score(None, ANSWERED)
    both, count = model.score(None, TWICE_ANSWERED)

    assert first_count == len("A colour.") + 1
    assert count == first_count + len("It is.") + 1
    assert both > first


def test_a_repetition_penalty_does_not_count_what_an_encoder_read(family: Families) -> None:
    model = load_language_model(family("t5").directory)
    greedy, penalised = Sampling(), Sampling(repetition_penalty=2.0)

    def first(source: range, sampling: Sampling) -> int:
        return next(model.tokens(source, sampling, 1))

    sources = [range(start, start + 60) for start in range(0, VOCABULARY - 60, 20)]
    copying = [source for source in sources if first(source, greedy) in source]

    assert copying
    for source in copying:
        assert first(source, penalised) == first(source, greedy)
