"""The examples of stored versions: a page at a time, or all of them."""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import orjson

from services.chat.conversation import Content, Message, Preference
from services.common.paging import PageTokens, page_size, scope_of
from services.dataset.domain.canonical import CanonicalReader, Damaged, RowGroup
from services.dataset.domain.datasets import Listing, require_version
from services.dataset.domain.errors import VersionDamaged
from services.dataset.domain.formats import chat, plain_text, preferences
from services.dataset.domain.formats.rows import Row
from services.dataset.domain.names import VersionName
from services.dataset.domain.ports import Blobs, Store
from services.dataset.domain.resources import DatasetVersion

DEFAULT_PAGE_SIZE = 20
MAX_PAGE_SIZE = 200
MAX_PAGE_BYTES = 1024 * 1024
PIECE_BYTES = 512 * 1024

_FOOTER_GUESS_BYTES = 64 * 1024
_MESSAGE_OVERHEAD_BYTES = 25


@dataclass(frozen=True)
class Example:
    """One labeled example and its place in its version, from 0."""

    index: int
    content: Content


class Contents:
    """Reads the canonical files of versions, never more than a row group of one at a time."""

    def __init__(self, store: Store, blobs: Blobs, tokens: PageTokens) -> None:
        self._store = store
        self._blobs = blobs
        self._tokens = tokens

    async def preview(self, name: VersionName, size: int, token: str) -> Listing[Example]:
        """The examples that follow the token's page. Pages that begin with `latest` stay with the
        version that it was. Raises DatasetVersionNotFound, and InvalidArgument for a bad size or
        token."""
        scope = scope_of("examples", str(name))
        size = page_size(size, default=DEFAULT_PAGE_SIZE, maximum=MAX_PAGE_SIZE)
        first = 0
        if token:
            own_id, next_index = self._tokens.decode(token, scope=scope)
            name, first = name.parent.version(str(own_id)), int(next_index)
        version = await self.version(name)
        examples = await self.examples(version, first, size)
        end = first + len(examples)
        if end >= version.example_count:
            return Listing(tuple(examples), "")
        key = (version.name.version, end)
        return Listing(tuple(examples), self._tokens.encode(key, scope=scope))

    async def parquet(self, name: VersionName) -> AsyncGenerator[bytes]:
        """The canonical file. Raises DatasetVersionNotFound."""
        version = await self.version(name)
        async with aclosing(self._blobs.stream(version.digest)) as pieces:
            async for piece in pieces:
                yield piece

    async def json_lines(self, name: VersionName) -> AsyncGenerator[bytes]:
        """Chat, preference or plain-text lines that give the same version again, but for what these
        formats leave out (see `chat.write`). Raises DatasetVersionNotFound."""
        version = await self.version(name)
        file = await _VersionFile.open(self._blobs, version)
        for group in file.groups:
            contents = await file.read(group)
            text = await asyncio.to_thread(_json_lines, contents)
            for start in range(0, len(text), PIECE_BYTES):
                yield text[start : start + PIECE_BYTES]

    async def groups(self, version: DatasetVersion) -> AsyncGenerator[Sequence[Content]]:
        """What all examples hold, a row group of them at a time. Raises VersionDamaged."""
        file = await _VersionFile.open(self._blobs, version)
        for group in file.groups:
            yield await file.read(group)

    async def version(self, name: VersionName) -> DatasetVersion:
        """By its id or as `latest`. Raises DatasetVersionNotFound."""
        async with self._store.reading() as tables:
            return await require_version(tables.datasets, name)

    async def examples(self, version: DatasetVersion, first: int, count: int) -> Sequence[Example]:
        """Up to `count` examples from `first` on that have MAX_PAGE_BYTES together; at least one if
        there is one."""
        examples: list[Example] = []
        size_bytes = 0
        file = await _VersionFile.open(self._blobs, version)
        for group in file.groups:
            skipped = first + len(examples) - group.first_example
            if skipped >= group.example_count:
                continue
            for content in await file.read(group, skipped, count - len(examples)):
                size_bytes += _size_bytes(content)
                if examples and size_bytes > MAX_PAGE_BYTES:
                    return examples
                examples.append(Example(first + len(examples), content))
            if len(examples) == count:
                break
        return examples


class _VersionFile:
    """A version's canonical file among the blobs."""

    def __init__(self, blobs: Blobs, version: DatasetVersion, reader: CanonicalReader) -> None:
        self._blobs = blobs
        self._version = version
        self._reader = reader

    @classmethod
    async def open(cls, blobs: Blobs, version: DatasetVersion) -> "_VersionFile":
        """Reads the footer. Raises VersionDamaged."""
        size_bytes = version.size_bytes
        guess_bytes = min(size_bytes, _FOOTER_GUESS_BYTES)
        tail = await _read_range(blobs, version.digest, size_bytes - guess_bytes, guess_bytes)
        try:
            footer_bytes = CanonicalReader.footer_bytes(tail)
            if footer_bytes > len(tail):
                offset = max(0, size_bytes - footer_bytes)
                tail = await _read_range(blobs, version.digest, offset, footer_bytes)
            return cls(blobs, version, await asyncio.to_thread(CanonicalReader, tail))
        except Damaged as error:
            raise VersionDamaged(version.name) from error

    @property
    def groups(self) -> tuple[RowGroup, ...]:
        return self._reader.groups

    async def read(
        self, group: RowGroup, start: int = 0, count: int | None = None
    ) -> Sequence[Content]:
        """The examples of one group, or some of them. Raises VersionDamaged."""
        content = await _read_range(
            self._blobs, self._version.digest, group.offset, group.size_bytes
        )
        try:
            return await asyncio.to_thread(self._reader.read, group, content, start, count)
        except Damaged as error:
            raise VersionDamaged(self._version.name) from error


async def _read_range(blobs: Blobs, digest: str, offset: int, size_bytes: int) -> bytes:
    """The bytes of a range, fewer if the blob ends in it."""
    read = bytearray()
    async with aclosing(blobs.stream(digest, offset)) as pieces:
        async for piece in pieces:
            read += piece
            if len(read) >= size_bytes:
                break
    return bytes(read[:size_bytes])


def _size_bytes(content: Content) -> int:
    """The size on the wire, estimated from above."""
    if isinstance(content, str):
        return len(content.encode()) + _MESSAGE_OVERHEAD_BYTES
    if isinstance(content, Preference):
        answers = sum(map(_turn_bytes, (*content.chosen, *content.rejected)))
        return _size_bytes(content.prompt) + answers
    return len(content.tools.encode()) + sum(map(_turn_bytes, content))


def _turn_bytes(turn: Message) -> int:
    texts = [turn.content, turn.name, turn.tool_call_id]
    for call in turn.tool_calls:
        texts += [call.id, call.name, call.arguments]
    overhead = _MESSAGE_OVERHEAD_BYTES * (1 + len(turn.tool_calls))
    return overhead + sum(len(text.encode()) for text in texts)


def _json_lines(contents: Iterable[Content]) -> bytes:
    return b"".join(orjson.dumps(_line(content)) + b"\n" for content in contents)


def _line(content: Content) -> Row:
    if isinstance(content, str):
        return plain_text.write(content)
    if isinstance(content, Preference):
        return preferences.write(content)
    return chat.write(content)
