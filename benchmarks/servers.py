"""What is measured: the real platform, and a bare server beside it."""

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import grpc
import grpc.aio

from anneal import Platform
from services.common.channels import open_channel


@contextmanager
def platform(environment: Mapping[str, str] = os.environ) -> Generator[Platform]:
    """Every service as its own process, in a temporary directory, on free ports. `environment` is
    theirs instead of this process's."""
    with (
        tempfile.TemporaryDirectory(prefix="anneal-bench-") as directory,
        Platform(Path(directory), ephemeral=True, environment=environment) as running,
    ):
        yield running


@asynccontextmanager
async def bare_channel() -> AsyncGenerator[grpc.aio.Channel]:
    """A channel to a bare server in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.bare_server", stdout=asyncio.subprocess.PIPE
    )
    if process.stdout is None:
        raise RuntimeError("the bare server was started without a pipe")
    try:
        port = int(await process.stdout.readline())
        async with open_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        process.terminate()
        await process.wait()
