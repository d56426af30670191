"""What `examples/` promises to the demo and to whoever tries Anneal on it."""

import importlib
import json
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import TemplateError
from safetensors import safe_open
from transformers import AutoTokenizer, PreTrainedTokenizerFast

EXAMPLES = Path(__file__).parents[2] / "examples"
TINY_BASE = EXAMPLES / "tiny-base"
TINY_BASE_LIMIT_BYTES = 8_000_000
TRAINING, HELD_OUT = EXAMPLES / "support.jsonl", EXAMPLES / "support_heldout.jsonl"
MACHINE_PATH = re.compile(r"(?:/(?:home|root|work|tmp|Users|usr|var|opt)/)|[A-Z]:\\\\")


def pairs(path: Path) -> list[tuple[str, str]]:
    """(question, answer) of each line; fails on any line of another shape."""
    found: list[tuple[str, str]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        assert set(row) == {"messages"}
        assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
        question, answer = (message["content"] for message in row["messages"])
        assert question.strip() == question != ""
        assert answer.strip() == answer != ""
        found.append((question, answer))
    return found


def letters(text: str) -> str:
    return "".join(character for character in text.lower() if character.isalnum())


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(TINY_BASE, local_files_only=True)


def test_training_file_has_at_least_300_examples_and_none_twice() -> None:
    questions = [letters(question) for question, _ in pairs(TRAINING)]
    assert len(questions) >= 300
    assert len(set(questions)) == len(questions)


def test_held_out_file_has_40_to_60_examples() -> None:
    assert 40 <= len(pairs(HELD_OUT)) <= 60


def test_no_held_out_question_is_a_training_question() -> None:
    trained = {letters(question) for question, _ in pairs(TRAINING)}
    assert not [question for question, _ in pairs(HELD_OUT) if letters(question) in trained]


def test_each_answer_has_enough_phrasings_to_learn_from_and_is_asked_in_the_held_out_file() -> None:
    trained = Counter(answer for _, answer in pairs(TRAINING))
    asked = Counter(answer for _, answer in pairs(HELD_OUT))
    assert 10 <= len(trained) <= 12
    assert trained.keys() == asked.keys()
    assert min(trained.values()) >= 28


def test_answers_are_mixed_through_the_training_file() -> None:
    answers = [answer for _, answer in pairs(TRAINING)]
    assert len(set(answers[:60])) == len(set(answers))


def test_tiny_base_fits_in_eight_megabytes() -> None:
    size = sum(path.stat().st_size for path in TINY_BASE.iterdir())
    assert 1_000_000 < size <= TINY_BASE_LIMIT_BYTES


def test_tiny_base_is_a_complete_llama_checkpoint(tokenizer: PreTrainedTokenizerFast) -> None:
    config = json.loads((TINY_BASE / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["max_position_embeddings"] == 512
    assert config["tie_word_embeddings"] is True
    with safe_open(TINY_BASE / "model.safetensors", framework="np") as weights:
        shape = weights.get_slice("model.embed_tokens.weight").get_shape()
    assert shape == [config["vocab_size"], config["hidden_size"]]
    assert len(tokenizer) == config["vocab_size"]


def test_generation_stops_at_the_end_of_turn(tokenizer: PreTrainedTokenizerFast) -> None:
    generation = json.loads((TINY_BASE / "generation_config.json").read_text())
    assert tokenizer.eos_token == "<|end|>"
    assert generation["eos_token_id"] == tokenizer.eos_token_id
    assert generation["pad_token_id"] == tokenizer.pad_token_id != tokenizer.eos_token_id


@pytest.mark.parametrize("path", sorted(TINY_BASE.glob("*.json")), ids=lambda path: path.name)
def test_json_files_name_no_place_of_the_machine_that_made_them(path: Path) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    if path.name == "tokenizer.json":
        del document["model"]["vocab"], document["model"]["merges"]  # pieces of words, not places
    text = json.dumps(document)
    assert "_name_or_path" not in text
    assert not MACHINE_PATH.search(text)


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=200))
def test_any_text_survives_the_tokenizer(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


@pytest.mark.parametrize(
    "messages",
    [
        [("user", "Where is my order?"), ("assistant", "On its way.")],
        [("system", "Be brief."), ("user", "Hi"), ("assistant", " Hello,\n\nwho is it? ")],
        [("user", "A"), ("assistant", "1"), ("user", "B"), ("assistant", "2 – ü 🙂")],
    ],
)
def test_mask_covers_assistant_turns_with_their_end_and_nothing_else(
    tokenizer: PreTrainedTokenizerFast, messages: list[tuple[str, str]]
) -> None:
    encoded = tokenizer.apply_chat_template(
        [{"role": role, "content": content} for role, content in messages],
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    masked = zip(encoded["input_ids"], encoded["assistant_masks"], strict=True)
    supervised = tokenizer.decode([token for token, chosen in masked if chosen])
    answers = [content for role, content in messages if role == "assistant"]
    assert supervised == "".join(f"{answer}<|end|>" for answer in answers)


def test_generation_prompt_is_where_the_assistant_turn_begins(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    question = {"role": "user", "content": "Hello"}
    answer = {"role": "assistant", "content": "Hi."}
    prompt = tokenizer.apply_chat_template([question], tokenize=False, add_generation_prompt=True)
    full = tokenizer.apply_chat_template([question, answer], tokenize=False)
    assert full == prompt + "Hi.<|end|>"


def test_pretraining_rendered_chats_exactly_as_the_template_does(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    rendering = importlib.import_module("pretraining.tokens").rendering
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": " Hi\n"},
        {"role": "assistant", "content": "Hello. "},
    ]
    assert rendering(messages) == tokenizer.apply_chat_template(messages, tokenize=False)


def test_an_unknown_role_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(TemplateError, match="unknown role: tool"):
        tokenizer.apply_chat_template([{"role": "tool", "content": "4"}], tokenize=False)


def test_every_example_fits_in_the_context(tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [*pairs(TRAINING), *pairs(HELD_OUT)]
    lengths = [len(ids) for ids in tokenizer([f"{q}{a}" for q, a in rows])["input_ids"]]
    assert max(lengths) < 128
