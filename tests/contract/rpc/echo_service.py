"""The servicer behind echo.proto, and a program that serves it. Needs the stubs on sys.path."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import echo_pb2
import echo_pb2_grpc

from services.common import logs, process, settings
from services.common.interceptors import current_call
from services.common.server import ServerSettings, Service, serve

NAME = "echo.v1.EchoService"


async def _same(text: str) -> str:
    return text


class Echo(echo_pb2_grpc.EchoServiceServicer):
    """Answers with what `answer` makes of the text; tests replace it."""

    def __init__(self, answer: Callable[[str], Awaitable[str]] = _same) -> None:
        self.answer = answer
        self.uploads: list[list[str]] = []
        self.watches_ended = asyncio.Event()

    async def Say(self, request: Any, context: Any) -> Any:
        return echo_pb2.EchoResponse(text=await self.answer(request.text))

    async def Upload(self, requests: AsyncIterator[Any], context: Any) -> Any:
        parts = [str(part.WhichOneof("part")) async for part in requests]
        self.uploads.append(parts)
        return echo_pb2.EchoResponse(text=" ".join(parts))

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            while True:
                yield echo_pb2.EchoResponse(text=await self.answer(request.text))
                await asyncio.sleep(0.05)
        finally:
            self.watches_ended.set()

    async def Chat(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        async for request in requests:
            yield echo_pb2.EchoResponse(text=await self.answer(request.text))


def echo_service(servicer: Echo, **limits: float) -> Service:
    return Service(NAME, echo_pb2_grpc.add_EchoServiceServicer_to_server, servicer, limits)


@dataclass(frozen=True)
class Config:
    server: ServerSettings = field(default_factory=ServerSettings)


async def _slow(text: str) -> str:
    await asyncio.sleep(float(text))
    return f"done by {current_call().principal.id}"


async def run() -> None:
    config = settings.read(Config)
    logs.configure()
    await serve(config.server, [echo_service(Echo(_slow))], {})


if __name__ == "__main__":
    process.main(run)
