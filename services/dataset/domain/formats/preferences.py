"""Pairs of answers to one prompt, of which one is preferred.

Five spellings are read, told apart by their fields; OpenAI's, the first, is written:

- OpenAI's guide: `input` (an object with `messages`, `tools`, `parallel_tool_calls`),
  `preferred_output` and `non_preferred_output`, lists of messages;
- OpenAI's reference: the same with `preferred_completion` and `non_preferred_completion`;
- ShareGPT's: `conversations`, `system`, `tools`; `chosen` and `rejected` are one turn each;
- Alpaca's: `instruction`, `input`, `system`, `history`; `chosen` and `rejected` are texts;
- TRL's: `prompt`, `chosen` and `rejected`, texts or lists of messages, and `tools`. Two lists may
  also begin with the prompt.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from services.chat.conversation import Content, Conversation, Message, Preference, Role
from services.dataset.domain.flaws import FlawCode, Path
from services.dataset.domain.formats import alpaca, sharegpt
from services.dataset.domain.formats.chat import (
    MESSAGES,
    PARALLEL,
    TOOLS,
    read_messages,
    read_parallel,
    refuse_weight,
    refuse_weights,
    role_places,
    with_ids,
    write_messages,
)
from services.dataset.domain.formats.prompt_completion import PROMPT, not_learnt
from services.dataset.domain.formats.rows import CannotHold, Flaws, Row
from services.dataset.domain.formats.tools import definitions
from services.dataset.domain.formats.turns import check_turns
from services.dataset.domain.strict_json import Json

INPUT = "input"
OUTPUTS = ("preferred_output", "non_preferred_output")
COMPLETIONS = ("preferred_completion", "non_preferred_completion")
CHOSEN = ("chosen", "rejected")
SPELLINGS = (OUTPUTS, COMPLETIONS, CHOSEN)

_GIVEN = (sharegpt.CONVERSATIONS, alpaca.INSTRUCTION, INPUT, PROMPT, alpaca.HISTORY)
FIELDS = (*OUTPUTS, *COMPLETIONS, *CHOSEN, *_GIVEN, sharegpt.SYSTEM, TOOLS)


@dataclass(frozen=True)
class _End:
    """One of the two answers: its messages, and where its field and their roles stand."""

    field: Path
    messages: Sequence[Message]
    places: Sequence[Path]


@dataclass(frozen=True)
class _Pair:
    """What a row says, in whatever spelling."""

    prompt: Sequence[Message]
    places: Sequence[Path]
    ends: tuple[_End, _End]
    tools: str = ""
    parallel: bool | None = None


def read(row: Row) -> Preference:
    """Raises BadLine."""
    flaws = Flaws()
    pair = _pair(row, flaws)
    flaws.check()
    _check(pair, flaws)
    flaws.check()
    prompt = Conversation(tuple(not_learnt(pair.prompt)), pair.tools, pair.parallel)
    chosen, rejected = (tuple(end.messages) for end in pair.ends)
    return Preference(prompt, chosen, rejected)


def write(content: Content) -> Row:
    """In OpenAI's guide's spelling; what `chat.write` leaves out is left out. Raises CannotHold."""
    if not isinstance(content, Preference):
        raise CannotHold("an example without two answers")
    prompt = content.prompt
    given: Row = {MESSAGES: write_messages(prompt.messages, with_weights=False)}
    if prompt.tools:
        given[TOOLS] = json.loads(prompt.tools)
    if prompt.parallel_tool_calls is not None:
        given[PARALLEL] = prompt.parallel_tool_calls
    row: Row = {INPUT: given}
    for field, answer in zip(OUTPUTS, (content.chosen, content.rejected), strict=True):
        told = with_ids([*prompt, *answer])[len(prompt) :]
        row[field] = write_messages(told, with_weights=False)
    return row


def _pair(row: Row, flaws: Flaws) -> _Pair:
    for fields in (OUTPUTS, COMPLETIONS):
        if any(field in row for field in fields):
            return _of_openai(row, fields, flaws)
    if sharegpt.CONVERSATIONS in row:
        return _of_sharegpt(row, flaws)
    if alpaca.INSTRUCTION in row:
        return _of_alpaca(row, flaws)
    return _of_trl(row, flaws)


def _of_openai(row: Row, fields: tuple[str, str], flaws: Flaws) -> _Pair:
    flaws.reject_unknown(row, (INPUT, *fields))
    ends = (_listed(row, fields[0], flaws), _listed(row, fields[1], flaws))
    given = row.get(INPUT, {})
    if not flaws.is_object(given, (INPUT,)):
        return _Pair((), (), ends)
    flaws.reject_unknown(given, (MESSAGES, TOOLS, PARALLEL), (INPUT,))
    prompt = read_messages(given, MESSAGES, flaws, (INPUT,))
    refuse_weights(given.get(MESSAGES), (INPUT, MESSAGES), flaws)
    tools = definitions(given.get(TOOLS), (INPUT, TOOLS), flaws)
    parallel = read_parallel(given, (INPUT,), flaws)
    places = role_places((INPUT, MESSAGES), len(prompt))
    return _Pair(prompt, places, ends, tools, parallel)


def _of_sharegpt(row: Row, flaws: Flaws) -> _Pair:
    flaws.reject_unknown(row, (*sharegpt.FIELDS, *CHOSEN))
    prompt, places = sharegpt.read_turns(row, flaws)
    refuse_weights(row[sharegpt.CONVERSATIONS], (sharegpt.CONVERSATIONS,), flaws)
    chosen, rejected = (_turn(row, field, flaws) for field in CHOSEN)
    tools = definitions(row.get(TOOLS), (TOOLS,), flaws)
    return _Pair(prompt, places, (chosen, rejected), tools)


def _of_alpaca(row: Row, flaws: Flaws) -> _Pair:
    flaws.reject_unknown(row, (*alpaca.PROMPT_FIELDS, *CHOSEN))
    prompt = alpaca.read_prompt(row, flaws)
    chosen, rejected = (_text(row, field, flaws) for field in CHOSEN)
    return _Pair(prompt, [(alpaca.INSTRUCTION,)] * len(prompt), (chosen, rejected))


def _of_trl(row: Row, flaws: Flaws) -> _Pair:
    flaws.reject_unknown(row, (PROMPT, *CHOSEN, TOOLS))
    tools = definitions(row.get(TOOLS), (TOOLS,), flaws)
    if not any(isinstance(row.get(field), list) for field in CHOSEN):
        prompt = [Message(Role.USER, flaws.text(row, PROMPT))]
        chosen, rejected = (_text(row, field, flaws) for field in CHOSEN)
        return _Pair(prompt, [(PROMPT,)], (chosen, rejected), tools)
    chosen, rejected = (_listed(row, field, flaws) for field in CHOSEN)
    given = row.get(PROMPT)
    if isinstance(given, list):
        prompt = read_messages(row, PROMPT, flaws)
        refuse_weights(given, (PROMPT,), flaws)
        return _Pair(prompt, role_places((PROMPT,), len(prompt)), (chosen, rejected), tools)
    said = flaws.text(row, PROMPT) if PROMPT in row else None
    return _split(said, chosen, rejected, tools, flaws)


def _split(said: str | None, chosen: _End, rejected: _End, tools: str, flaws: Flaws) -> _Pair:
    """A pair of lists that may begin with the prompt; `said` is what its field says in a text."""
    pairs = zip(chosen.messages, rejected.messages, strict=False)
    common = len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
    prompt = list(chosen.messages[:common])
    places = chosen.places[:common]
    ends = (_from(chosen, common), _from(rejected, common))
    if said is None:
        if not prompt:
            flaws.add(FlawCode.MISSING_FIELD, "is missing, and the two begin unlike", (PROMPT,))
    elif not prompt:
        return _Pair([Message(Role.USER, said)], [(PROMPT,)], ends, tools)
    elif said not in [message.content for message in prompt]:
        flaws.add(FlawCode.WRONG_PROMPT, "is not what the two begin with", (PROMPT,))
    return _Pair(prompt, places, ends, tools)


def _from(end: _End, start: int) -> _End:
    return _End(end.field, end.messages[start:], end.places[start:])


def _listed(row: Row, field: str, flaws: Flaws) -> _End:
    messages = read_messages(row, field, flaws)
    refuse_weights(row.get(field), (field,), flaws)
    return _End((field,), messages, role_places((field,), len(messages)))


def _turn(row: Row, field: str, flaws: Flaws) -> _End:
    if field not in row:
        flaws.add(FlawCode.MISSING_FIELD, "is missing", (field,))
    item: Json = row.get(field, {"from": "gpt", "value": "-"})
    message = sharegpt.turn(item, (field,), flaws)
    refuse_weight(item, (field,), flaws)
    return _End((field,), [message], [(field, "from")])


def _text(row: Row, field: str, flaws: Flaws) -> _End:
    message = Message(Role.ASSISTANT, flaws.text(row, field), train=True)
    return _End((field,), [message], [(field,)])


def _check(pair: _Pair, flaws: Flaws) -> None:
    """What holds between the turns of a pair without another flaw."""
    first, second = pair.ends
    if first.messages == second.messages:
        flaws.add(FlawCode.SAME_ANSWERS, "is the same as what is preferred", second.field)
        return
    for end in pair.ends:
        if not end.messages:
            flaws.add(FlawCode.EMPTY, "is a part of the other one", end.field)
        elif end.messages[0].role is not Role.ASSISTANT:
            text = "an answer must begin with an assistant's message"
            flaws.add(FlawCode.ROLE_ORDER, text, end.places[0])
        else:
            _check_end(pair, end, flaws)


def _check_end(pair: _Pair, end: _End, flaws: Flaws) -> None:
    """The flaws of the prompt are told once, with those of the first answer."""
    found = Flaws()
    messages, places = [*pair.prompt, *end.messages], [*pair.places, *end.places]
    check_turns(messages, places, end.field, found)
    known = {(flaw.code, flaw.path) for flaw in flaws.found}
    for flaw in found.found:
        if (flaw.code, flaw.path) not in known:
            flaws.found.append(flaw)
