"""The backend of this host: one worker process a base model, started when first asked for."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import assert_never

from services.common.directories import Directories
from services.common.faults import InvalidArgument
from services.inference.adapters.worker_process import Reply, WorkerProcess
from services.inference.domain.errors import prompt_too_long
from services.inference.domain.generation import Conversation, Piece, Sampling, Score, Usage
from services.inference.domain.models import HubBase, LocalBase, ServedModel
from services.inference.worker import protocol


class LocalBackend:
    """Fetches models by digest into a cache and runs them in workers. A worker that died is
    started again by the next request for its base."""

    def __init__(self, directories: Directories, threads: int) -> None:
        self._directories = directories
        self._threads = threads
        self._workers: dict[LocalBase | HubBase, WorkerProcess] = {}
        self._starting = asyncio.Lock()

    @property
    def workers(self) -> tuple[WorkerProcess, ...]:
        """The workers that were started and not yet replaced."""
        return tuple(self._workers.values())

    async def generate(
        self, model: ServedModel, conversation: Conversation, sampling: Sampling
    ) -> AsyncIterator[Piece]:
        worker, adapter = await self._loaded(model)
        turns = _turns(conversation)
        async with worker.ask(
            lambda number: protocol.Generate(
                id=number, adapter=adapter, turns=turns, sampling=sampling
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
                        raise _refusal(reply)

    async def score(self, model: ServedModel, conversation: Conversation) -> Score:
        worker, adapter = await self._loaded(model)
        turns = _turns(conversation)
        async with worker.ask(
            lambda number: protocol.ScoreTurns(id=number, adapter=adapter, turns=turns)
        ) as replies:
            async for reply in replies:
                if isinstance(reply, protocol.Scored):
                    return Score(reply.loss_sum, reply.token_count)
                raise _refusal(reply)
        raise worker.stopped()

    async def close(self) -> None:
        """Ends every worker."""
        for worker in self._workers.values():
            await worker.stop()
        self._workers.clear()

    async def _loaded(self, model: ServedModel) -> tuple[WorkerProcess, str | None]:
        adapter = model.adapter_digest and str(await self._directories.cached(model.adapter_digest))
        return await self._worker(model.base), adapter

    async def _worker(self, base: LocalBase | HubBase) -> WorkerProcess:
        async with self._starting:
            worker = self._workers.get(base)
            if worker is None or not worker.alive:
                directory = await self._base_directory(base)
                worker = await WorkerProcess.start(directory, self._threads)
                self._workers[base] = worker
            return worker

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


def _refusal(reply: Reply) -> Exception:
    """What a reply other than the wanted one means to the caller."""
    match reply:
        case protocol.TooLong():
            return prompt_too_long(reply.tokens, reply.limit)
        case protocol.Refused():
            return InvalidArgument.of("messages", reply.message, "CONVERSATION_UNSUPPORTED")
        case _:
            return RuntimeError(f"the worker answered out of turn: {reply.type}")
