"""Conversations as the formats can hold them, for hypothesis."""

import json
from typing import Any

from hypothesis import strategies as st

from services.chat.conversation import Conversation, Message, Preference, Role, ToolCall

# Hypothesis finds ChatML's own marks in our source, and no ChatML text can hold them.
words = st.text(min_size=1, max_size=20).filter(lambda text: "<|im_" not in text)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2)
    ),
    max_leaves=4,
)


def json_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


arguments = st.dictionaries(st.text(max_size=5), values, max_size=2).map(json_text)
definitions = st.builds(dict, name=words, parameters=st.dictionaries(words, values, max_size=2))
tools = st.lists(
    definitions.map(lambda function: {"type": "function", "function": function}), max_size=2
).map(json_text)
weights = st.sampled_from([0.0, 0.001, 0.5, 1.0, 1.0, 3.25, 1000.0])


def answer(content: str, weight: float, **more: Any) -> Message:
    return Message(Role.ASSISTANT, content, train=weight > 0, weight=weight or 1.0, **more)


@st.composite
def questions(draw: st.DrawFn, *, parts: bool) -> Message:
    """With `parts` some have an instruction and an input."""
    if parts and draw(st.booleans()):
        instruction, given = draw(words), draw(words)
        start = len(instruction) + 1
        return Message(Role.USER, f"{instruction}\n{given}", input_start=start)
    return Message(Role.USER, draw(words))


@st.composite
def calls(draw: st.DrawFn, turn: int, *, ids: bool) -> list[Message]:
    """A turn of calls and their answers: with ids in any order, without in that of the calls."""
    made = draw(st.lists(st.builds(ToolCall, words, arguments), min_size=1, max_size=3))
    if ids:
        named = [ToolCall(c.name, c.arguments, f"{turn}-{i}") for i, c in enumerate(made)]
        order = draw(st.permutations([call.id for call in named]))
        content = draw(st.just("") | words)
    else:
        named, order, content = made, [""] * len(made), ""
    asked = answer(content, draw(weights), tool_calls=tuple(named))
    return [asked, *[Message(Role.TOOL, draw(st.text(max_size=5)), tool_call_id=i) for i in order]]


@st.composite
def chats(draw: st.DrawFn, *, ids: bool = True) -> Conversation:
    """All that OpenAI's rows can hold; without `ids` all that ShareGPT's can."""
    turns = [Message(Role.SYSTEM, draw(words))] if draw(st.booleans()) else []
    for turn in range(draw(st.integers(1, 3))):
        name = draw(st.just("") | words) if ids else ""
        turns.append(Message(Role.USER, draw(words), name=name))
        if draw(st.booleans()):
            turns += draw(calls(turn, ids=ids))
        turns.append(answer(draw(words), draw(weights)))
    if not any(message.train for message in turns):
        turns[-1] = answer(turns[-1].content, 1.0)
    parallel = draw(st.sampled_from([None, True, False])) if ids else None
    return Conversation(tuple(turns), draw(st.just("") | tools), parallel)


@st.composite
def plain_chats(draw: st.DrawFn, *, parts: bool = False) -> Conversation:
    """Questions and learnt answers; with `parts` the last question may have two of them."""
    turns = [Message(Role.SYSTEM, draw(words))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(0, 2))):
        turns += [Message(Role.USER, draw(words)), answer(draw(words), 1.0)]
    return Conversation.of(*turns, draw(questions(parts=parts)), answer(draw(words), 1.0))


@st.composite
def preferences(draw: st.DrawFn) -> Preference:
    prompt = draw(chats())
    *before, _ = prompt.messages
    unlearnt = [Message(**{**_fields(m), "train": False, "weight": 1.0}) for m in before]
    chosen, rejected = draw(st.lists(words, min_size=2, max_size=2, unique=True))
    ends = [
        (*draw(st.just([]) | calls(9, ids=True).map(_learnt)), answer(text, 1.0))
        for text in (chosen, rejected)
    ]
    given = Conversation(tuple(unlearnt), prompt.tools, prompt.parallel_tool_calls)
    return Preference(given, *ends)


def _learnt(turns: list[Message]) -> list[Message]:
    asked, *answers = turns
    return [answer(asked.content, 1.0, tool_calls=asked.tool_calls), *answers]


def _fields(message: Message) -> dict[str, Any]:
    return {name: getattr(message, name) for name in Message.__slots__}
