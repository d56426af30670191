"""A caller of DatasetService, and what it sends."""

import json
import uuid
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message
from sqlalchemy import text

from anneal.dataset.v1 import dataset_pb2
from anneal.dataset.v1 import dataset_service_pb2 as pb
from anneal.dataset.v1.dataset_service_pb2_grpc import DatasetServiceStub
from services.common.store import Store
from tests.contract import refusals

PARENT = "projects/default/datasets/support"


def chat(question: str = "1+1?", answer: str = "2", **more: Any) -> bytes:
    """One chat line."""
    messages = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer, **more},
    ]
    return json.dumps({"messages": messages}).encode() + b"\n"


def document(words: str = "All parcels are blue.") -> bytes:
    """One plain-text line."""
    return json.dumps({"text": words}).encode() + b"\n"


def chats(count: int, prefix: str = "") -> bytes:
    return b"".join(chat(f"{prefix}{number}?", str(number)) for number in range(count))


def request_id() -> str:
    return str(uuid.uuid4())


@dataclass(frozen=True)
class Refusal:
    """A status as a caller reads it."""

    code: str
    reason: str
    fields: tuple[str, ...] = ()
    rejection: dataset_pb2.UploadRejection = field(default_factory=dataset_pb2.UploadRejection)


def refusal(error: grpc.aio.AioRpcError) -> Refusal:
    found = refusals.Refusal.of(error)
    fields = tuple(violation.field for violation in found.violations)
    return Refusal(found.code, found.reason, fields, found.detail(dataset_pb2.UploadRejection))


@dataclass
class Caller:
    """The stub, and a look at what the service keeps."""

    stub: DatasetServiceStub
    address: str
    store: Store[Any]
    blobs_dir: Path
    spool_dir: Path

    async def upload(
        self,
        *chunks: bytes,
        parent: str = PARENT,
        metadata: tuple[tuple[str, str], ...] = (),
        **header: Any,
    ) -> dataset_pb2.DatasetVersion:
        requests = upload_requests(chunks, parent=parent, **header)
        return await self.stub.UploadDatasetVersion(requests, metadata=metadata)

    async def refused(self, call: Any) -> Refusal:
        """How the call was refused; fails if it was not."""
        try:
            answer: Message = await call
        except grpc.aio.AioRpcError as error:
            return refusal(error)
        raise AssertionError(f"was answered: {answer}")

    async def preview(self, name: str, **options: Any) -> list[tuple[int, str]]:
        """Index and first words of all examples, a page at a time."""
        examples: list[tuple[int, str]] = []
        request = pb.PreviewDatasetVersionRequest(name=name, **options)
        while True:
            page = await self.stub.PreviewDatasetVersion(request)
            examples += [(one.index, one.messages[0].content) for one in page.examples]
            if not page.next_page_token:
                return examples
            request.page_token = page.next_page_token

    async def download(self, name: str, format: Any = 0) -> list[bytes]:
        request = pb.DownloadDatasetVersionRequest(name=name, format=format)
        return [piece.chunk async for piece in self.stub.DownloadDatasetVersion(request)]

    async def kept(self) -> dict[str, int]:
        """How many rows, blobs and temporary files there are."""
        async with self.store.engine.connect() as connection:
            counts = {
                table: (await connection.scalar(text(f"SELECT count(*) FROM {table}")))
                for table in ("datasets", "dataset_versions", "requests")
            }
        files = {"blobs": self.blobs_dir, "spooled": self.spool_dir}
        for what, directory in files.items():
            counts[what] = sum(path.is_file() for path in directory.rglob("*"))
        return counts


NOTHING = {"datasets": 0, "dataset_versions": 0, "requests": 0, "blobs": 0, "spooled": 0}


async def upload_requests(
    chunks: Iterable[bytes], **header: Any
) -> AsyncIterator[pb.UploadDatasetVersionRequest]:
    yield pb.UploadDatasetVersionRequest(header=pb.UploadHeader(**header))
    for chunk in chunks:
        yield pb.UploadDatasetVersionRequest(chunk=chunk)
