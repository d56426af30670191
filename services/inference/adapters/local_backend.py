"""The backend of this host: one worker process a base model, started when first asked for."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import assert_never

from services.common.directories import Directories
from services.common.faults import InvalidArgument
from services.inference.adapters.worker_process import Reply, WorkerProcess
from services.inference.domain.errors import ModelUnusable, prompt_too_long
from services.inference.domain.generation import Conversation, Piece, Sampling, Score, Usage
from services.inference.domain.models import HubBase, LocalBase, ServedModel
from services.inference.worker import protocol


class LocalBackend:
    """Fetches models by digest into a cache and runs them in workers. A worker that died is
    started again by the next request for its base."""

    def __init__(self, directories: Directories, threads: int) -> None:
        self._directories = directories
        self._threads = threads
        self._starts: dict[LocalBase | HubBase, asyncio.Task[WorkerProcess]] = {}

    @property
    def workers(self) -> tuple[WorkerProcess, ...]:
        """The workers that were started and not yet replaced."""
        started = (_result(start) for start in self._starts.values())
        return tuple(worker for worker in started if worker is not None)

    async def generate(
        self, model: ServedModel, conversation: Conversation, sampling: Sampling
    ) -> AsyncGenerator[Piece]:
        worker, artifacts = await self._loaded(model)
        turns = _turns(conversation)
        async with worker.ask(
            lambda number: protocol.Generate(
                id=number, artifacts=artifacts, turns=turns, sampling=sampling
            )
        ) as replies:
            async for reply in replies:
                match reply:
                    case protocol.TextPiece():
                        yield Piece(reply.text)
                    case protocol.End():
                        usage = Usage(reply.prompt_tokens, reply.output_tokens)
                        yield Piece("", reply.finish_reason, usage)
                    case _:
                        raise _refusal(reply, model)

    async def score(self, model: ServedModel, conversation: Conversation) -> Score:
        worker, artifacts = await self._loaded(model)
        turns = _turns(conversation)
        async with worker.ask(
            lambda number: protocol.ScoreTurns(id=number, artifacts=artifacts, turns=turns)
        ) as replies:
            async for reply in replies:
                if isinstance(reply, protocol.Scored):
                    return Score(reply.loss_sum, reply.token_count)
                raise _refusal(reply, model)
        raise worker.stopped()

    async def close(self) -> None:
        """Ends every worker, also those that are starting."""
        starts = tuple(self._starts.values())
        for start in starts:
            start.cancel()
        if starts:
            await asyncio.wait(starts)
        for worker in self.workers:
            await worker.stop()
        self._starts.clear()

    async def _loaded(self, model: ServedModel) -> tuple[WorkerProcess, str | None]:
        digest = model.artifacts_digest
        artifacts = digest and str(await self._directories.cached(digest))
        return await self._worker(model.base), artifacts

    async def _worker(self, base: LocalBase | HubBase) -> WorkerProcess:
        """The base's worker, started by the first who asks. Shielded: one that gives up waiting
        does not undo the loading for the others, nor for its own next try."""
        start = self._starts.get(base)
        if start is None or _ended(start):
            start = self._starts[base] = asyncio.create_task(self._start(base))
        return await asyncio.shield(start)

    async def _start(self, base: LocalBase | HubBase) -> WorkerProcess:
        return await WorkerProcess.start(await self._base_directory(base), self._threads)

    async def _base_directory(self, base: LocalBase | HubBase) -> Path:
        match base:
            case LocalBase(manifest_digest):
                return await self._directories.cached(manifest_digest)
            case HubBase(repository, revision):
                return await self._directories.cached_hub_model(repository, revision)
            case _:
                assert_never(base)


def _turns(conversation: Conversation) -> tuple[protocol.WireTurn, ...]:
    return tuple(protocol.WireTurn(role=turn.role, content=turn.content) for turn in conversation)


def _result(start: asyncio.Task[WorkerProcess]) -> WorkerProcess | None:
    """The worker that was started; none if it is still starting or did not start."""
    if not start.done() or start.cancelled() or start.exception() is not None:
        return None
    return start.result()


def _ended(start: asyncio.Task[WorkerProcess]) -> bool:
    worker = _result(start)
    return start.done() and (worker is None or not worker.alive)


def _refusal(reply: Reply, model: ServedModel) -> Exception:
    """What a reply other than the wanted one means to the caller."""
    match reply:
        case protocol.TooLong():
            return prompt_too_long(reply.tokens, reply.limit)
        case protocol.Refused():
            return InvalidArgument.of("messages", reply.message, "CONVERSATION_UNSUPPORTED")
        case protocol.Unusable():
            return ModelUnusable(model.name, reply.message)
        case _:
            return RuntimeError(f"the worker answered out of turn: {reply.type}")
