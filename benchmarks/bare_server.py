"""The least that a grpc.aio server can do: the reference that ours are measured against.

`python -m benchmarks.bare_server` prints its port; it echoes a message, and hashes a stream.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

from services.common.channels import SERVER_OPTIONS

SERVICE = "bare.Bare"
ECHO = f"/{SERVICE}/Echo"
HASH = f"/{SERVICE}/Hash"


async def _echo(request: bytes, context: Any) -> bytes:
    return request


async def _hash(requests: AsyncIterator[bytes], context: Any) -> bytes:
    digest = hashlib.sha256()
    async for chunk in requests:
        digest.update(chunk)
    return digest.digest()


async def main() -> None:
    server = grpc.aio.server(options=SERVER_OPTIONS)
    handlers = {
        "Echo": grpc.unary_unary_rpc_method_handler(_echo),
        "Hash": grpc.stream_unary_rpc_method_handler(_hash),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
