"""Prompt files of A/B tests: chat JSON lines, or plain text, a prompt a line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import typer

from anneal.common.v1.conversation_pb2 import ROLE_ASSISTANT, ROLE_USER, ChatMessage
from anneal.conversations import messages_of

PROMPT_FIELDS = ("prompt", "question")


def read_prompts(path: Path) -> list[list[ChatMessage]]:
    """Returns the conversations of a file, each ending with a user's turn.

    The assistant's last turn is dropped: it is what the models shall say. Raises BadParameter
    naming the line that cannot be used.
    """
    return [
        _prompt(line, f"{path.name}, line {number}")
        for number, line in _lines(path)
        if line.strip()
    ]


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    return enumerate(path.read_text("utf-8").splitlines(), start=1)


def _prompt(line: str, where: str) -> list[ChatMessage]:
    if not line.lstrip().startswith("{"):
        return messages_of(line.strip())
    turns = _turns(line, where)
    if turns and turns[-1].role == ROLE_ASSISTANT:
        turns.pop()
    if not turns or turns[-1].role != ROLE_USER:
        raise typer.BadParameter(f"{where}: there is no user's turn to answer")
    return turns


def _turns(line: str, where: str) -> list[ChatMessage]:
    try:
        example = json.loads(line)
        if "messages" in example:
            return messages_of(cast(list[dict[str, str]], example["messages"]))
        return messages_of(_prompt_text(example))
    except (ValueError, KeyError, TypeError) as error:
        raise typer.BadParameter(f"{where}: {error}") from error


def _prompt_text(example: dict[str, Any]) -> str:
    for field in PROMPT_FIELDS:
        if isinstance(example.get(field), str):
            return example[field]
    raise ValueError("neither `messages` nor `prompt`; a plain text asks nothing")
