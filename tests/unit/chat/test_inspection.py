"""The tokens that are shown, and the proof of what is trained: for templates of twelve families."""

from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.chat.contract import BreachCode
from services.chat.conversation import Content, Conversation, Role
from services.chat.encoder import ChatEncoder
from services.chat.inspection import Inspection, Token, inspect
from services.chat.pairs import PairEncoder
from services.chat.proof import Prover
from services.chat.text import TextEncoder
from services.dataset.domain.canonical import CanonicalWriter
from services.trainer.engine.errors import InvalidData
from services.trainer.engine.examples import (
    ConversationEncoder,
    Encoder,
    Example,
    encoder_for,
    load_examples,
)
from services.trainer.engine.job import Training
from tests.unit.chat.families import (
    BROKEN,
    CONVERSATIONS,
    FAMILIES,
    SYSTEM,
    WITH_TOOLS,
    answer,
    conversations_for,
    user,
)

TRAINING = Training(
    max_steps=1,
    epochs=0,
    batch_size=1,
    learning_rate=0.1,
    warmup_steps=0,
    schedule="constant",
    weight_decay=0,
    max_grad_norm=0,
    max_sequence_tokens=512,
    validation_fraction=0,
    evaluate_every=0,
    checkpoint_every=0,
)
Directory = Callable[[str], Path]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Directory:
    """The model directory of a family, by its name."""
    parent = tmp_path_factory.mktemp("families")
    made: dict[str, Path] = {}

    def find(name: str) -> Path:
        if name not in made:
            made[name] = {**FAMILIES, **BROKEN}[name].directory(parent)
        return made[name]

    return find


@pytest.fixture
def encoder_of(directory: Directory) -> Callable[[str], ConversationEncoder]:
    def load(name: str) -> ConversationEncoder:
        kind = PairEncoder if name == "t5" else ChatEncoder
        return kind.load(directory(name))

    return load


EncoderOf = Callable[[str], ConversationEncoder]
each_family = pytest.mark.parametrize("family", FAMILIES)


def written(path: Path, contents: Iterable[Content]) -> Path:
    """A canonical dataset file."""
    with path.open("w+b") as file:
        writer = CanonicalWriter(file)
        for content in contents:
            writer.append(content)
        writer.close()
    return path


def tokens(encoder: Encoder, inspected: Inspection) -> list[list[Token]]:
    return [list(one.tokens(encoder.tokenizer)) for one in inspected.sequences]


def codes(inspected: Inspection) -> list[BreachCode]:
    return [breach.code for breach in inspected.breaches]


Seen = tuple[list[int], list[int], list[int], list[float]]
"""What the engine has of a sequence: source ids, token ids, labels and weights."""


def seen_by_engine(example: Example) -> Seen:
    weights = example.weights or [float(label) for label in example.labeled]
    return (
        list(example.source_ids),
        list(example.token_ids),
        list(example.labeled),
        [round(weight, 6) for weight in weights],
    )


def shown(sequence: list[Token]) -> Seen:
    kept = [token for token in sequence if not token.cut_off]
    own = [token for token in kept if not token.source]
    return (
        [token.id for token in kept if token.source],
        [token.id for token in own],
        [int(token.trained) for token in own],
        [token.weight for token in own],
    )


def assert_equal_to_the_engine(
    contents: list[Content], directory: Path, file: Path, max_tokens: int
) -> int:
    """Row by row what is shown is what the engine trains on; returns how many sequences there
    are."""
    dataset = written(file, contents)
    encoder = encoder_for(dataset, directory)
    trained_on: dict[int, list[Seen]] = {}
    count = 0
    try:
        loaded = load_examples(dataset, encoder, max_tokens, TRAINING, seed=0).training
    except InvalidData:  # nothing is left of any row
        loaded = ()
    for example in loaded:
        trained_on.setdefault(example.row, []).append(seen_by_engine(example))
        count += 1
    for row, content in enumerate(contents):
        inspected = inspect(encoder, content, max_tokens)
        ours = [shown(one) for one in tokens(encoder, inspected)]
        if BreachCode.NOTHING_TRAINED in codes(inspected):
            assert row not in trained_on
        else:
            assert [one for one in ours if one[1]] == trained_on[row]
    return count


@each_family
@pytest.mark.parametrize("max_tokens", [512, 40, 16])
def test_what_is_shown_is_what_the_engine_trains_on(
    family: str, max_tokens: int, directory: Directory, tmp_path: Path
) -> None:
    rows: list[Content] = [*conversations_for(FAMILIES[family]).values()]
    count = assert_equal_to_the_engine(
        rows, directory(family), tmp_path / "rows.parquet", max_tokens
    )
    assert count >= len(rows) or max_tokens < 512


@pytest.mark.parametrize("family", ["llama2", "chatml", "llama3"])
@pytest.mark.parametrize("max_tokens", [512, 7, 2])
def test_plain_texts_are_shown_in_the_pieces_that_the_engine_trains_on(
    family: str, max_tokens: int, directory: Directory, tmp_path: Path
) -> None:
    texts: list[Content] = ["The capital of France is Paris.", "🎉 é", "x", " "]
    count = assert_equal_to_the_engine(
        texts, directory(family), tmp_path / "texts.parquet", max_tokens
    )
    assert count >= 4


@each_family
def test_every_conversation_of_every_family_keeps_the_contract(
    family: str, encoder_of: EncoderOf
) -> None:
    encoder = encoder_of(family)
    for name, conversation in conversations_for(FAMILIES[family]).items():
        assert inspect(encoder, conversation, 512).breaches == (), name


@each_family
def test_answers_and_nothing_else_are_trained(family: str, encoder_of: EncoderOf) -> None:
    encoder = encoder_of(family)
    for name, conversation in conversations_for(FAMILIES[family]).items():
        inspected = inspect(encoder, conversation, 512)
        for sequence in tokens(encoder, inspected):
            trained = [token for token in sequence if token.trained]
            assert {token.role for token in trained} == {Role.ASSISTANT}, name
            assert trained[-1].id in encoder.eos_token_ids, name


@each_family
def test_words_belong_to_those_who_say_them(family: str, encoder_of: EncoderOf) -> None:
    encoder = encoder_of(family)
    conversation = CONVERSATIONS["system"]
    sequence = tokens(encoder, inspect(encoder, conversation, 512))[-1]
    for role in (Role.SYSTEM, Role.USER):
        said = "".join(token.text for token in sequence if token.role is role)
        assert said == "".join(m.content for m in conversation if m.role is role)
    headers = [token for token in sequence if token.role is None]
    assert not any(token.trained for token in headers)


@pytest.mark.parametrize("family", [name for name, one in FAMILIES.items() if one.has_tools])
def test_a_call_is_trained_and_what_the_tool_answers_is_not(
    family: str, encoder_of: EncoderOf
) -> None:
    encoder = encoder_of(family)
    (sequence,) = tokens(encoder, inspect(encoder, WITH_TOOLS["a call and its answer"], 512))
    trained = "".join(token.text for token in sequence if token.trained)
    assert '"side": 3' in trained
    assert "It is 9 m" in trained
    told = "".join(token.text for token in sequence if token.role is Role.TOOL)
    assert "9 m" in told.replace("\\", "")
    assert "9 m" not in trained.replace("It is 9 m", "")


@each_family
def test_the_texts_of_the_tokens_are_what_the_template_writes(
    family: str, encoder_of: EncoderOf
) -> None:
    encoder = encoder_of(family)
    if isinstance(encoder, PairEncoder):
        return
    for conversation in (CONVERSATIONS["three turns"], CONVERSATIONS["system"]):
        (sequence,) = tokens(encoder, inspect(encoder, conversation, 512))
        assert "".join(token.text for token in sequence) == encoder.render(conversation)


@pytest.mark.parametrize("family", ["chatml", "gemma"])
def test_a_token_of_a_part_of_a_character_is_shown_as_bytes(
    family: str, encoder_of: EncoderOf
) -> None:
    encoder = encoder_of(family)
    (sequence,) = tokens(encoder, inspect(encoder, CONVERSATIONS["many scripts"], 512))
    party = "\\xf0\\x9f\\x8e\\x89"
    assert party in "".join(token.text for token in sequence if token.trained)
    assert all("\ufffd" not in token.text for token in sequence)


def test_what_lies_beyond_the_limit_is_shown_and_counts_nothing(encoder_of: EncoderOf) -> None:
    encoder = encoder_of("chatml")
    whole = inspect(encoder, CONVERSATIONS["three turns"], 512)
    assert not whole.truncated
    cut = inspect(encoder, CONVERSATIONS["three turns"], 30)
    assert cut.truncated
    assert cut.breaches == ()
    (sequence,) = tokens(encoder, cut)
    assert len(sequence) == whole.sequences[0].token_count
    assert [token.cut_off for token in sequence] == [n >= 30 for n in range(len(sequence))]
    assert not any(token.trained for token in sequence[30:])
    assert 0 < cut.trained_token_count < whole.trained_token_count


def test_an_example_without_a_trained_token_is_named(encoder_of: EncoderOf) -> None:
    encoder = encoder_of("chatml")
    untrained = Conversation.of(user("a"), answer("b", train=False))
    (breach,) = inspect(encoder, untrained, 512).breaches
    assert breach.code == "NO_TRAINED_TOKEN"
    assert "no assistant message is marked" in breach.message
    (breach,) = inspect(encoder, CONVERSATIONS["one turn"], 8).breaches
    assert breach.code == "NO_TRAINED_TOKEN"
    assert "beyond the limit of 8 tokens" in breach.message
    pairs = encoder_of("t5")
    assert codes(inspect(pairs, untrained, 512)) == ["NO_TRAINED_TOKEN"]
    assert codes(inspect(pairs, CONVERSATIONS["one turn"], 8)) == ["NO_TRAINED_TOKEN"]


def test_a_text_without_a_token_is_named(directory: Directory) -> None:
    encoder = TextEncoder.load(directory("chatml"))
    assert codes(inspect(encoder, "", 512)) == ["NO_TRAINED_TOKEN"]


def test_an_end_of_turn_that_the_tags_leave_out_is_found(encoder_of: EncoderOf) -> None:
    encoder = encoder_of("broken_endless")
    assert inspect(encoder, CONVERSATIONS["one turn"], 512).breaches == ()
    inspected = inspect(encoder, CONVERSATIONS["three turns"], 512)
    assert codes(inspected) == ["END_OF_TURN_UNTRAINED"] * 2
    assert "message 1" in inspected.breaches[0].message
    assert codes(inspect(encoder, CONVERSATIONS["an answer that is not learnt"], 512)) == []


def test_an_end_of_turn_that_is_cut_off_is_no_breach(encoder_of: EncoderOf) -> None:
    encoder = encoder_of("broken_endless")
    conversation = CONVERSATIONS["three turns"]
    (sequence,) = tokens(encoder, inspect(encoder, conversation, 512))
    ends = [place for place, token in enumerate(sequence) if token.text == "<|im_end|>"]
    for first_cut_off, count in ((ends[3] + 1, 2), (ends[3], 1), (ends[1] + 1, 1), (ends[1], 0)):
        found = codes(inspect(encoder, conversation, first_cut_off))
        assert found == ["END_OF_TURN_UNTRAINED"] * count


def test_the_end_of_the_next_question_does_not_end_an_answer(
    model_directory: Callable[..., Path],
) -> None:
    template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}"
        "{% if m.role == 'user' or loop.last %}{{ eos_token }}{% endif %}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    encoder = ChatEncoder.load(model_directory(template))
    assert inspect(encoder, CONVERSATIONS["three turns"], 512).breaches == ()


def test_a_question_inside_the_tags_is_found(encoder_of: EncoderOf) -> None:
    encoder = encoder_of("broken_greedy")
    inspected = inspect(encoder, CONVERSATIONS["three turns"], 512)
    assert codes(inspected) == ["USER_TOKEN_TRAINED"] * 3
    (sequence,) = tokens(encoder, inspected)
    trained = [token.text for token in sequence if token.trained and token.role is Role.USER]
    assert "".join(trained) == "Hi2 + 2?sure?"
    again = inspect(encoder, CONVERSATIONS["the words of the question again"], 512)
    assert codes(again) == ["USER_TOKEN_TRAINED"] * 2


def test_what_a_template_leaves_out_is_found(encoder_of: EncoderOf) -> None:
    encoder = encoder_of("broken_deaf")
    inspected = inspect(encoder, CONVERSATIONS["system"], 512)
    assert codes(inspected) == ["MESSAGE_DROPPED"]
    assert "message 0, a system's" in inspected.breaches[0].message
    tools = inspect(encoder, WITH_TOOLS["tools that are not called"], 512)
    assert codes(tools) == ["TEMPLATE_UNSUPPORTED"]
    assert "tools" in tools.breaches[0].message


def test_a_template_that_cannot_write_an_example_is_named(encoder_of: EncoderOf) -> None:
    for family, conversation in (
        ("broken_mute", CONVERSATIONS["one turn"]),
        ("llama2", Conversation.of(user("a"), user("b"), answer("c"))),
        ("t5", WITH_TOOLS["a call and its answer"]),
    ):
        inspected = inspect(encoder_of(family), conversation, 512)
        assert codes(inspected) == ["TEMPLATE_UNSUPPORTED"], family
        assert inspected.sequences == ()


def test_a_template_that_looks_at_how_a_message_begins_is_proved_by_search(
    model_directory: Callable[..., Path],
) -> None:
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.content.startswith('Paris') %}(a town) {% endif %}{{ m.content }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    encoder = ChatEncoder.load(model_directory(template))
    inspected = inspect(encoder, Conversation.of(SYSTEM, user("Paris?"), answer("Yes")), 512)
    assert inspected.breaches == ()
    (sequence,) = tokens(encoder, inspected)
    assert "".join(token.text for token in sequence if token.role is Role.USER).strip() == "Paris?"


pieces = st.sampled_from([*"aé🎉 \n<|>/", "Paris", "[INST]", "<|im_end|>"])
words = st.lists(pieces, max_size=9).map("".join)


@pytest.mark.parametrize("family", ["llama2", "chatml", "chatml_tagged", "zephyr"])
@given(said=st.lists(st.tuples(words, words, st.booleans()), min_size=1, max_size=3))
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_is_said_a_row_that_keeps_the_contract_trains_no_question(
    family: str, said: list[tuple[str, str, bool]], encoder_of: EncoderOf
) -> None:
    encoder = encoder_of(family)
    messages = [(user(question), answer(text, train)) for question, text, train in said]
    conversation = Conversation.of(*chain.from_iterable(messages))
    inspected = inspect(encoder, conversation, 512)
    unwritable = {BreachCode.UNSUPPORTED, BreachCode.NOTHING_TRAINED}
    assert unwritable.issuperset(codes(inspected))
    if BreachCode.UNSUPPORTED not in codes(inspected):
        (sequence,) = tokens(encoder, inspected)
        assert {token.role for token in sequence if token.trained} <= {Role.ASSISTANT}


def test_a_proof_counts_rows_and_names_the_first_breaches(encoder_of: EncoderOf) -> None:
    encoder = encoder_of("broken_endless")
    prover = Prover(encoder, 40)
    for _ in range(60):
        prover.take(CONVERSATIONS["one turn"])
        prover.take(CONVERSATIONS["three turns"])
    proof = prover.proof
    each = [CONVERSATIONS["one turn"], CONVERSATIONS["three turns"]]
    trained = sum(inspect(encoder, one, 40).trained_token_count for one in each)
    assert (proof.row_count, proof.trained_token_count) == (120, 60 * trained)
    assert (proof.breaching_row_count, proof.truncated_row_count) == (60, 60)
    assert len(proof.breaches) == 100 <= proof.breach_count
    assert [one.row for one in proof.breaches[:4]] == [1, 1, 3, 3]
    assert {one.breach.code for one in proof.breaches} == {"END_OF_TURN_UNTRAINED"}
