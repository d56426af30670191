"""What training would see of stored versions with a base model, and whether that is right."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from services.chat.conversation import Content, Preference
from services.chat.inspection import Encoder, Inspection, Token, inspect
from services.chat.proof import Proof, Prover
from services.common.faults import InvalidArgument
from services.common.paging import PageTokens, page_size, scope_of
from services.dataset.domain.contents import Contents, Example
from services.dataset.domain.errors import PreferencesUnsupported, RowOutOfRange
from services.dataset.domain.names import BaseModelName, VersionName
from services.dataset.domain.resources import DatasetVersion

DEFAULT_MAX_TOKENS = 512
LEAST_MAX_TOKENS, MOST_MAX_TOKENS = 8, 1_048_576
"""A job's bounds of `max_sequence_tokens`."""

MAX_PAGE_SIZE = 100
MAX_PAGE_TOKENS = 20_000
PROVED_AT_ONCE = 256
PROOFS_AT_ONCE = 2


@dataclass(frozen=True)
class BaseModel:
    """A base model of the registry. `manifest_digest` names its files; a hub's model has none."""

    name: BaseModelName
    digest: str
    manifest_digest: str | None


class BaseModels(Protocol):
    async def find(self, name: BaseModelName) -> BaseModel:
        """Raises BaseModelNotFound, RegistryUnknown and Unavailable."""
        ...


class Encoders(Protocol):
    async def find(self, model: BaseModel, *, texts: bool) -> Encoder:
        """The encoder that a job would have, for plain texts or for conversations. Raises
        BaseModelElsewhere, TokenizerUnusable, ChatTemplateUnsupported, and InvalidArgument for an
        encoder–decoder and texts."""
        ...


@dataclass(frozen=True)
class ShownSequence:
    """The first of a sequence's tokens, and how many there are in all."""

    tokens: tuple[Token, ...]
    token_count: int
    trained_token_count: int
    truncated: bool


@dataclass(frozen=True)
class Row:
    """One row as tokens; `index` is its place in the version, from 0."""

    index: int
    sequences: tuple[ShownSequence, ...]
    inspection: Inspection


@dataclass(frozen=True)
class TokenPage:
    rows: tuple[Row, ...]
    next_page_token: str
    base_model: BaseModel


@dataclass(frozen=True)
class Proving:
    """How far a proof has come, and of what it is one."""

    version: DatasetVersion
    base_model: BaseModel
    proof: Proof
    complete: bool


@dataclass(frozen=True)
class Asked:
    """Which version, for which base model, with how many tokens at most. Raises InvalidArgument for
    too few or too many of them."""

    version: VersionName
    base_model: BaseModelName
    max_tokens: int

    def __post_init__(self) -> None:
        if not LEAST_MAX_TOKENS <= self.max_tokens <= MOST_MAX_TOKENS:
            text = f"must be {LEAST_MAX_TOKENS} to {MOST_MAX_TOKENS:,}"
            raise InvalidArgument.of("max_tokens", text, "OUT_OF_RANGE")


class Masks:
    """Encodes rows as the engine does. That happens in threads, and of proofs in few at once."""

    def __init__(
        self, contents: Contents, base_models: BaseModels, encoders: Encoders, tokens: PageTokens
    ) -> None:
        self._contents = contents
        self._base_models = base_models
        self._encoders = encoders
        self._tokens = tokens
        self._proofs = asyncio.Semaphore(PROOFS_AT_ONCE)

    async def preview(self, asked: Asked, first_row: int, size: int, token: str) -> TokenPage:
        """Rows from the first one on, or those that follow the token's page. Raises
        DatasetVersionNotFound, RowOutOfRange, InvalidArgument for a bad size or token, and what
        finding the encoder raises."""
        parts = (str(asked.version), str(asked.base_model), str(asked.max_tokens))
        scope = scope_of("tokens", *parts)
        size = page_size(size, default=1, maximum=MAX_PAGE_SIZE)
        name = asked.version
        if token:
            own_id, next_row = self._tokens.decode(token, scope=scope)
            name, first_row = name.parent.version(str(own_id)), int(next_row)
        version = await self._contents.version(name)
        if not 0 <= first_row < version.example_count:
            raise RowOutOfRange(first_row, version.example_count)
        base_model = await self._base_models.find(asked.base_model)
        examples = await self._contents.examples(version, first_row, size)
        encoder = await self._encoder(version, base_model, examples[0].content)
        rows = await asyncio.to_thread(_page, encoder, examples, asked.max_tokens)
        end = first_row + len(rows)
        if end >= version.example_count:
            return TokenPage(rows, "", base_model)
        key = (version.name.version, end)
        return TokenPage(rows, self._tokens.encode(key, scope=scope), base_model)

    async def prove(self, asked: Asked) -> AsyncGenerator[Proving]:
        """Inspects every row, and tells now and then how far that has come; the last one is
        complete. Raises DatasetVersionNotFound, and what finding the encoder raises."""
        version = await self._contents.version(asked.version)
        base_model = await self._base_models.find(asked.base_model)
        prover: Prover | None = None
        async with aclosing(self._contents.groups(version)) as groups:
            async for contents in groups:
                if prover is None:
                    encoder = await self._encoder(version, base_model, contents[0])
                    prover = Prover(encoder, asked.max_tokens)
                for start in range(0, len(contents), PROVED_AT_ONCE):
                    async with self._proofs:
                        taken = contents[start : start + PROVED_AT_ONCE]
                        await asyncio.to_thread(prover.take_all, taken)
                    complete = prover.proof.row_count == version.example_count
                    yield Proving(version, base_model, prover.proof, complete)

    async def _encoder(
        self, version: DatasetVersion, base_model: BaseModel, content: Content
    ) -> Encoder:
        """All of a version hold what one of its rows does."""
        if isinstance(content, Preference):
            raise PreferencesUnsupported(version.name)
        return await self._encoders.find(base_model, texts=isinstance(content, str))


def _page(encoder: Encoder, examples: Sequence[Example], max_tokens: int) -> tuple[Row, ...]:
    """The first of the rows, that have MAX_PAGE_TOKENS together; at least one."""
    rows: list[Row] = []
    room = MAX_PAGE_TOKENS
    for example in examples:
        inspection = inspect(encoder, example.content, max_tokens)
        count = sum(one.token_count for one in inspection.sequences)
        if rows and count > room:
            break
        rows.append(Row(example.index, _sequences(encoder, inspection), inspection))
        room -= count
    return tuple(rows)


def _sequences(encoder: Encoder, inspection: Inspection) -> tuple[ShownSequence, ...]:
    sequences: list[ShownSequence] = []
    room = MAX_PAGE_TOKENS
    for one in inspection.sequences:
        tokens = tuple(one.tokens(encoder.tokenizer, room))
        room -= len(tokens)
        counts = (one.token_count, one.trained_token_count)
        sequences.append(ShownSequence(tokens, *counts, one.truncated))
    return tuple(sequences)
