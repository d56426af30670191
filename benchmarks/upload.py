"""Upload, MB a second, beside a bare stream that is only hashed: `python -m benchmarks.upload`.

The sides take turns with as many bytes in the same chunks: the bare stream with sha256; a repeated
upload, which the service receives and hashes but need not look into; one whose lines are validated;
one that is stored too.
"""

import asyncio
import itertools
import json
import time
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

import grpc.aio

from anneal.dataset.v1.dataset_service_pb2 import UploadDatasetVersionRequest, UploadHeader
from anneal.dataset.v1.dataset_service_pb2_grpc import DatasetServiceStub
from benchmarks import bare_server
from benchmarks.rounds import print_figures, take_turns
from benchmarks.servers import bare_channel, platform
from services.common.channels import open_channel

if TYPE_CHECKING:
    from anneal.dataset.v1.dataset_service_pb2_grpc import DatasetServiceAsyncStub

CHUNK_BYTES = 512 * 1024
SIZE_BYTES = 64 * 1024 * 1024
ROUNDS = 5


def lines(round_number: int) -> bytes:
    """About SIZE_BYTES of chat examples of 1 KiB; another round has other bytes."""
    answer = "The parcel left our house and will be with you soon. " * 16

    def line(number: int) -> bytes:
        turns = [
            {"role": "user", "content": f"Where is parcel {number} of day {round_number}?"},
            {"role": "assistant", "content": answer},
        ]
        return json.dumps({"messages": turns}).encode() + b"\n"

    count = SIZE_BYTES // len(line(0))
    return b"".join(line(number) for number in range(count))


def chunks(content: bytes) -> Iterator[bytes]:
    return (content[start : start + CHUNK_BYTES] for start in range(0, len(content), CHUNK_BYTES))


class Uploader:
    """Uploads and takes the time, in MB a second."""

    def __init__(self, stub: "DatasetServiceAsyncStub") -> None:
        self._stub = stub
        self._fresh = itertools.count(1)
        self._repeated = lines(0)
        self._request_id = str(uuid.uuid4())

    async def stored(self) -> float:
        """Every round other lines: everything is done."""
        return await self._upload(lines(next(self._fresh)))

    async def validated(self) -> float:
        return await self._upload(self._repeated, validate_only=True)

    async def received(self) -> float:
        """The same request again: its bytes are received and hashed, its lines not looked at."""
        return await self._upload(self._repeated, request_id=self._request_id)

    async def _upload(
        self, content: bytes, *, request_id: str = "", validate_only: bool = False
    ) -> float:
        header = UploadHeader(
            parent="projects/default/datasets/bench",
            request_id=request_id,
            validate_only=validate_only,
        )
        began = time.perf_counter()
        await self._stub.UploadDatasetVersion(requests(header, content))
        return len(content) / 1e6 / (time.perf_counter() - began)


async def measure(dataset_address: str) -> None:
    async with bare_channel() as bare, open_channel(dataset_address) as channel:
        hashed: grpc.aio.StreamUnaryMultiCallable[bytes, bytes] = bare.stream_unary(
            bare_server.HASH
        )
        uploader = Uploader(DatasetServiceStub(channel))
        content = lines(0)

        async def bare_stream() -> float:
            began = time.perf_counter()
            await hashed(chunks(content))
            return len(content) / 1e6 / (time.perf_counter() - began)

        figures = await take_turns(
            {
                "bare stream + sha256": bare_stream,
                "received, validation apart": uploader.received,
                "validated": uploader.validated,
                "validated and stored": uploader.stored,
            },
            "MB/s",
            ROUNDS,
        )
    print_figures(f"Upload of {SIZE_BYTES >> 20} MiB", figures, "bare stream + sha256")


def requests(header: UploadHeader, content: bytes) -> Iterator[UploadDatasetVersionRequest]:
    yield UploadDatasetVersionRequest(header=header)
    for chunk in chunks(content):
        yield UploadDatasetVersionRequest(chunk=chunk)


def main() -> None:
    with platform() as running:
        asyncio.run(measure(running.addresses.dataset))


if __name__ == "__main__":
    main()
