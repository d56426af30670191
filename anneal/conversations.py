"""Conversations as callers write them: a text, or turns of a role and its words."""

from collections.abc import Mapping, Sequence

from anneal.common.v1.conversation_pb2 import (
    ROLE_ASSISTANT,
    ROLE_SYSTEM,
    ROLE_USER,
    ChatMessage,
    Role,
)

Conversation = str | Sequence[ChatMessage | Mapping[str, str]]
"""A text is one turn of the user; a mapping has `role` and `content`."""

ROLES = {"system": ROLE_SYSTEM, "user": ROLE_USER, "assistant": ROLE_ASSISTANT}


def messages_of(conversation: Conversation) -> list[ChatMessage]:
    """Returns the turns. Raises ValueError for a role that there is not."""
    if isinstance(conversation, str):
        return [ChatMessage(role=ROLE_USER, content=conversation)]
    return [
        turn
        if isinstance(turn, ChatMessage)
        else ChatMessage(role=_role(turn["role"]), content=turn["content"])
        for turn in conversation
    ]


def role_word(role: Role.ValueType) -> str:
    """Returns `user` for ROLE_USER, and so on."""
    return Role.Name(role).removeprefix("ROLE_").lower()


def _role(word: str) -> Role.ValueType:
    if word not in ROLES:
        raise ValueError(f"there is no role {word!r}; roles are {', '.join(ROLES)}")
    return ROLES[word]
