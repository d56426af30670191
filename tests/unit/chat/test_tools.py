"""Tools: written as transformers does, and only what the model says of them is learnt."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import render_jinja_template

from services.chat.conversation import NO_TOOLS, Conversation, Message, Role, ToolCall
from services.chat.encoder import ChatEncoder
from services.chat.errors import TemplateUnsupported
from services.chat.pairs import PairEncoder
from services.chat.template import ChatTemplate
from tests.unit.chat.test_encoder import PLAIN, REWRITING, trained_text
from tests.unit.chat.tool_templates import HERMES, LLAMA

EncoderWith = Callable[[str], ChatEncoder]
ModelDirectory = Callable[..., Path]

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Wetter für <eine> Stadt",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    },
    {"type": "function", "function": {"name": "time"}},
]
WEATHER = ToolCall("weather", '{"city": "Köln", "days": [1, 2.5, null]}', "c1")
TIME = ToolCall("time", "{}", "c2")


def asking(*calls: ToolCall, content: str = "", train: bool = True) -> Message:
    return Message(Role.ASSISTANT, content, train, tool_calls=calls)


def told(content: str, id: str = "c1") -> Message:
    return Message(Role.TOOL, content, tool_call_id=id)


QUESTION = Message(Role.USER, "Warm?")
ANSWER = Message(Role.ASSISTANT, "Mild.", train=True)
FORECAST = '{"temp": "12 °C"}\n'
ONE_CALL = Conversation(
    (QUESTION, asking(WEATHER), told(FORECAST), ANSWER),
    json.dumps(TOOLS, ensure_ascii=False),
)
TWO_CALLS = replace(
    ONE_CALL,
    messages=(
        Message(Role.SYSTEM, "Be brief."),
        QUESTION,
        asking(WEATHER, TIME, content="Let me see."),
        told(FORECAST),
        told("12:00", "c2"),
        ANSWER,
    ),
)


def as_dicts(conversation: Conversation) -> list[dict[str, Any]]:
    """As OpenAI has them, but for the arguments, which transformers wants parsed."""
    return [_as_dict(message) for message in conversation]


def _as_dict(message: Message) -> dict[str, Any]:
    known: dict[str, Any] = {"role": message.role.value, "content": message.content}
    if message.tool_call_id:
        known["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        known["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": json.loads(call.arguments)},
            }
            for call in message.tool_calls
        ]
    return known


def compiled(source: str) -> ChatTemplate:
    return ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"}, lambda: datetime.min)


@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize(
    ("source", "conversation"),
    [
        (LLAMA, ONE_CALL),
        (HERMES, ONE_CALL),
        (HERMES, TWO_CALLS),
        (LLAMA, replace(ONE_CALL, tools="")),
        (HERMES, ONE_CALL[:2]),
        ("{{ messages | tojson }}{{ tools | tojson }}", TWO_CALLS),
    ],
)
def test_the_text_is_that_of_transformers(
    source: str, conversation: Conversation, prompt: bool
) -> None:
    (theirs,), _ = render_jinja_template(
        [as_dicts(conversation)],
        tools=TOOLS if conversation.tools else None,
        chat_template=source,
        add_generation_prompt=prompt,
        bos_token="<s>",
        eos_token="</s>",
    )
    ours = compiled(source).render(conversation, add_generation_prompt=prompt)
    assert ours.text == theirs


@pytest.mark.parametrize("source", [LLAMA, HERMES])
def test_ids_are_those_of_transformers(source: str, model_directory: ModelDirectory) -> None:
    directory = model_directory(source)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(directory / "tokenizer.json"), bos_token="<s>"
    )
    theirs = tokenizer.apply_chat_template(
        as_dicts(ONE_CALL), tools=TOOLS, chat_template=source, return_dict=True
    )
    assert ChatEncoder.load(directory).encode(ONE_CALL, 9999).token_ids == theirs["input_ids"]


LLAMA_CALL = '{"name": "weather", "parameters": {"city": "Köln", "days": [1, 2.5, null]}}<|eot_id|>'
HERMES_CALL = (
    '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln", "days": [1, 2.5, null]}}\n'
    "</tool_call>"
)
LEARNT = {
    "llama": (LLAMA, ONE_CALL, f"{LLAMA_CALL}Mild.<|eot_id|>"),
    "hermes": (HERMES, ONE_CALL, f"{HERMES_CALL}<|im_end|>Mild.<|im_end|>"),
    "two calls": (
        HERMES,
        TWO_CALLS,
        f"Let me see.\n{HERMES_CALL}\n"
        '<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call><|im_end|>Mild.<|im_end|>',
    ),
    "a call at the end": (HERMES, ONE_CALL[:2], f"{HERMES_CALL}<|im_end|>"),
    "a call that is not learnt": (
        HERMES,
        replace(ONE_CALL, messages=(QUESTION, asking(WEATHER, train=False), *ONE_CALL[2:])),
        "Mild.<|im_end|>",
    ),
}


@pytest.mark.parametrize("name", LEARNT)
def test_calls_are_learnt_and_what_tools_answer_is_not(
    name: str, model_directory: ModelDirectory
) -> None:
    source, conversation, learnt = LEARNT[name]
    directory = model_directory(source)

    assert trained_text(directory, ChatEncoder.load(directory).encode(conversation, 9999)) == learnt


def test_the_tokens_of_a_call_weigh_what_its_turn_does(encoder_with: EncoderWith) -> None:
    light = replace(ONE_CALL[1], weight=0.5)
    encoder = encoder_with(HERMES)
    example = encoder.encode(replace(ONE_CALL, messages=(QUESTION, light, *ONE_CALL[2:])), 9999)

    pairs = zip(example.token_ids, example.weights, strict=True)
    assert encoder.decode(i for i, weight in pairs if weight == 0.5) == HERMES_CALL


@pytest.mark.parametrize("answer", ['"quoted"', "a\\b\n\tc", "é\u2028", "", "12", "Mild."])
@pytest.mark.parametrize("source", [LLAMA, HERMES])
def test_a_tool_may_answer_whatever_it_likes(
    source: str, answer: str, model_directory: ModelDirectory
) -> None:
    directory = model_directory(source)
    conversation = replace(ONE_CALL, messages=(*ONE_CALL[:2], told(answer), ANSWER))
    learnt = trained_text(directory, ChatEncoder.load(directory).encode(conversation, 9999))

    assert learnt.count("Mild.") == 1
    assert learnt.count("Köln") == 1


@pytest.mark.parametrize("source", [LLAMA, HERMES])
def test_a_list_of_no_tools_is_none(source: str) -> None:
    silent = replace(ONE_CALL, tools="")

    assert compiled(source).render(replace(silent, tools=NO_TOOLS)) == compiled(source).render(
        silent
    )


@pytest.mark.parametrize(
    ("source", "conversation", "reason"),
    [
        (
            PLAIN,
            replace(ONE_CALL, tools=""),
            "tool calls of assistant turn 1 are not in its turn",
        ),
        (LLAMA, TWO_CALLS, "single tool-calls"),
        (
            HERMES.replace('if message.role == "tool"', 'if message.role == "none"').replace(
                "in messages", 'in messages if message.role != "tool"'
            ),
            ONE_CALL,
            "drops or rewrites messages that come before assistant turn 2",
        ),
        (PLAIN, Conversation((QUESTION, ANSWER), json.dumps(TOOLS)), "leaves out the definitions"),
        (REWRITING, replace(ONE_CALL, tools="["), "must be JSON"),
        (
            HERMES,
            replace(ONE_CALL, messages=(QUESTION, asking(ToolCall("a", "b")))),
            "must be JSON",
        ),
    ],
)
def test_a_template_that_does_not_write_the_tools_is_refused(
    source: str, conversation: Conversation, reason: str, encoder_with: EncoderWith
) -> None:
    with pytest.raises(TemplateUnsupported, match=reason):
        encoder_with(source).encode(conversation, 9999)


def test_an_encoder_decoder_learns_no_tools(model_directory: ModelDirectory) -> None:
    encoder = PairEncoder.load(model_directory(None))
    plain = Conversation.of(QUESTION, ANSWER)

    for conversation in (ONE_CALL, replace(plain, tools=ONE_CALL.tools), ONE_CALL[1:]):
        with pytest.raises(TemplateUnsupported, match="knows no tools"):
            encoder.examples(conversation, 9999)
    assert encoder.examples(replace(plain, tools=NO_TOOLS), 9999) == encoder.examples(plain, 9999)


def test_names_are_told_to_the_template() -> None:
    source = "{% for m in messages %}{{ m.name or '-' }}{% endfor %}"
    turns = (replace(QUESTION, name="Ann"), ANSWER)

    assert compiled(source).render(Conversation(turns)).text == "Ann-"


@pytest.mark.parametrize(
    ("of_one", "fields"),
    [
        (Role.USER, {"tool_calls": (WEATHER,)}),
        (Role.TOOL, {"tool_calls": (WEATHER,)}),
        (Role.USER, {"tool_call_id": "c1"}),
        (Role.TOOL, {"train": True}),
        (Role.ASSISTANT, {"tool_call_id": "c1"}),
    ],
)
def test_only_an_assistant_calls_and_only_a_tool_answers(
    of_one: Role, fields: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=r"only (assistant|tool) messages"):
        Message(of_one, "a", **fields)


def test_a_slice_of_a_conversation_has_its_tools() -> None:
    assert ONE_CALL[:1] == replace(ONE_CALL, messages=(QUESTION,))
    assert ONE_CALL[0] == QUESTION
    assert list(ONE_CALL) == list(ONE_CALL.messages)
    assert len(ONE_CALL) == 4
