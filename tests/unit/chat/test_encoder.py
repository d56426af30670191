"""Which tokens carry loss: exactly those that the model has to write."""

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from services.chat.conversation import Conversation, Message, Role
from services.chat.encoder import ChatEncoder, EncodedExample
from services.chat.errors import NoLabeledTokens, TemplateUnsupported, TokenizerFilesMissing

EncoderWith = Callable[[str], ChatEncoder]
ModelDirectory = Callable[..., Path]

PLAIN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TAGGED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ m.content }}<|im_end|>{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTENT_ONLY = TAGGED.replace("<|im_end|>{% endgeneration %}", "{% endgeneration %}<|im_end|>")
REWRITING = (  # like the templates that drop the thinking of earlier turns
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and not loop.last %}{{ m.content.split('</think>')[-1] }}"
    "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


talk = Conversation.of


def user(text: str) -> Message:
    return Message(Role.USER, text)


def answer(text: str, train: bool = True) -> Message:
    return Message(Role.ASSISTANT, text, train)


CONVERSATIONS: dict[str, Conversation] = {
    "one turn": talk(user("What is the capital of France?"), answer("Paris.")),
    "three turns": talk(
        user("Hi"),
        answer("Hello there!"),
        user("2 + 2?"),
        answer(" It is 4.\n"),
        user("sure?"),
        answer("Yes"),
    ),
    "system": talk(Message(Role.SYSTEM, "Be short."), user("Hi"), answer("Hello\n\nthere")),
    "same text": talk(user("Paris"), answer("Paris"), user("Paris"), answer("Paris")),
    "many scripts": talk(user("é 日本 🎉"), answer("🎉 日本 é")),
    "empty answer": talk(user("Say nothing"), answer("")),
}
each_conversation = pytest.mark.parametrize("name", CONVERSATIONS)


def trained_text(directory: Path, example: EncodedExample) -> str:
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(directory / "tokenizer.json"))
    pairs = zip(example.token_ids, example.labeled, strict=True)
    return tokenizer.decode([token for token, labeled in pairs if labeled])


@each_conversation
def test_tags_and_their_absence_give_the_same_labels(name: str, encoder_with: EncoderWith) -> None:
    examples = [
        encoder_with(template).encode(CONVERSATIONS[name], 999)
        for template in (PLAIN, TAGGED, CONTENT_ONLY)
    ]
    assert examples[0] == examples[1] == examples[2]


@each_conversation
def test_ids_and_labels_are_those_of_transformers(
    name: str, model_directory: ModelDirectory
) -> None:
    directory = model_directory(TAGGED)
    conversation = CONVERSATIONS[name]
    reference = PreTrainedTokenizerFast(tokenizer_file=str(directory / "tokenizer.json"))
    # Trimmed offsets would make transformers drop an answer that starts with a space.
    reference.backend_tokenizer.post_processor = None
    theirs = reference.apply_chat_template(
        [{"role": m.role.value, "content": m.content} for m in conversation],
        chat_template=TAGGED,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    ours = ChatEncoder.load(directory).encode(conversation, 999)
    assert ours.token_ids == theirs["input_ids"]
    assert ours.labeled == [bool(mask) for mask in theirs["assistant_masks"]]


@pytest.mark.parametrize("template", [PLAIN, TAGGED])
def test_the_loss_covers_the_marked_answers_and_their_stop_tokens(
    template: str, model_directory: ModelDirectory
) -> None:
    directory = model_directory(template)
    known = (user("a"), answer("Paris"), user("b"), answer("4", train=False))
    conversation = talk(*known, user("c"), answer("Hello!"))
    example = ChatEncoder.load(directory).encode(conversation, 999)
    assert trained_text(directory, example) == "Paris<|im_end|>Hello!<|im_end|>"


def test_a_space_before_an_answer_belongs_to_the_prompt(model_directory: ModelDirectory) -> None:
    """The token " is" straddles the border, and after the prompt's space it is never written."""
    directory = model_directory(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    example = ChatEncoder.load(directory).encode(talk(user("What"), answer("is Paris.")), 999)
    assert trained_text(directory, example) == " Paris.</s>"


def test_a_stop_token_that_only_ends_the_whole_is_enough(model_directory: ModelDirectory) -> None:
    directory = model_directory(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% else %}{{ eos_token }}{% endif %}"
    )
    conversation = talk(user("a"), answer("Paris"), user("b"), answer("4"))
    example = ChatEncoder.load(directory).encode(conversation, 999)
    assert trained_text(directory, example) == "Paris\n4\n</s>"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (PLAIN.replace("<|im_end|>", ""), "no stop token"),
        (PLAIN.replace("m.content", "m.content | replace('.', '')"), "not where its turn lies"),
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[7].content.x }}", "has no element 7"),
    ],
)
def test_a_template_that_hides_the_answers_is_refused_with_the_reason(
    template: str, reason: str, encoder_with: EncoderWith
) -> None:
    with pytest.raises(TemplateUnsupported, match=reason):
        encoder_with(template).encode(CONVERSATIONS["one turn"], 999)


def test_a_template_that_rewrites_history_is_refused_only_where_it_does(
    encoder_with: EncoderWith,
) -> None:
    encoder = encoder_with(REWRITING)
    thought = answer("<think>hm</think>Paris")
    assert any(encoder.encode(talk(user("a"), thought), 999).labeled)
    with pytest.raises(TemplateUnsupported, match="assistant turn 1 is not where"):
        encoder.encode(talk(user("a"), thought, user("b"), answer("4")), 999)


def test_an_example_without_a_trained_answer_is_refused(encoder_with: EncoderWith) -> None:
    with pytest.raises(NoLabeledTokens) as raised:
        encoder_with(PLAIN).encode(talk(user("a"), answer("b", train=False)), 999)
    assert not raised.value.truncated


def test_truncation_keeps_the_start_and_refuses_what_has_no_label_left(
    encoder_with: EncoderWith,
) -> None:
    encoder = encoder_with(PLAIN)
    conversation = CONVERSATIONS["one turn"]
    whole = encoder.encode(conversation, 999)
    first_label = whole.labeled.index(True)
    exact = encoder.encode(conversation, len(whole.token_ids))
    assert exact == whole
    assert not exact.truncated
    cut = encoder.encode(conversation, first_label + 1)
    assert cut.truncated
    assert cut.token_ids == whole.token_ids[: first_label + 1]
    assert cut.labeled.count(True) == 1
    with pytest.raises(NoLabeledTokens) as raised:
        encoder.encode(conversation, first_label)
    assert raised.value.truncated


def test_a_prompt_is_what_the_labels_follow(encoder_with: EncoderWith) -> None:
    encoder = encoder_with(TAGGED)
    conversation = CONVERSATIONS["one turn"]
    example = encoder.encode(conversation, 999)
    prompt = encoder.prompt(conversation[:1])
    assert example.token_ids[: len(prompt)] == prompt
    assert example.labeled.index(True) == len(prompt)
    assert encoder.decode(example.token_ids[len(prompt) :]).strip() == "Paris."


def test_generation_stops_at_declared_ids_and_at_the_end_of_a_turn(
    model_directory: ModelDirectory,
) -> None:
    directory = model_directory(PLAIN)
    assert ChatEncoder.load(directory).eos_token_ids == {1, 3}  # </s> and <|im_end|>
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 1]}))
    assert ChatEncoder.load(directory).eos_token_ids == {0, 1, 3}
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": 2}))
    assert ChatEncoder.load(directory).eos_token_ids == {1, 2, 3}


def test_the_template_may_stand_in_the_tokenizer_config(model_directory: ModelDirectory) -> None:
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": PLAIN}]
    for chat_template in (PLAIN, named):
        directory = model_directory(None, chat_template=chat_template)
        assert ChatEncoder.load(directory).prompt(talk(user("Hi")))
    with pytest.raises(TemplateUnsupported, match="no chat template"):
        ChatEncoder.load(model_directory(None))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", None),
        ("tokenizer.json", "{}"),
        ("tokenizer_config.json", None),
        ("tokenizer_config.json", "{"),
        ("tokenizer_config.json", "[]"),
    ],
)
def test_missing_and_broken_tokenizer_files_are_named(
    name: str, content: str | None, model_directory: ModelDirectory
) -> None:
    directory = model_directory(PLAIN)
    (directory / name).unlink()
    if content is not None:
        (directory / name).write_text(content)
    with pytest.raises(TokenizerFilesMissing, match=name):
        ChatEncoder.load(directory)


def test_the_same_data_gives_the_same_tokens_on_every_day(model_directory: ModelDirectory) -> None:
    directory = model_directory("{{ strftime_now('%d %b %Y') }}{{ messages[0].content }}")
    told = ChatEncoder.load(directory)
    assert told.decode(told.prompt(talk(user(".")))) == "26 Jul 2024."
    today = ChatEncoder.load(directory, now=lambda: datetime(2030, 1, 2))
    assert today.decode(today.prompt(talk(user(".")))) == "02 Jan 2030."
