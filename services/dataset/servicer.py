"""DatasetService: proto ⇄ domain."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress

from google.protobuf.empty_pb2 import Empty
from pydantic import ValidationError

from anneal.dataset.v1 import dataset_pb2
from anneal.dataset.v1 import dataset_service_pb2 as pb
from anneal.dataset.v1.dataset_service_pb2_grpc import DatasetServiceServicer
from services.common.errors import Context
from services.common.faults import Fault
from services.common.names import ProjectName
from services.dataset import translation
from services.dataset.domain.contents import Contents
from services.dataset.domain.datasets import Datasets
from services.dataset.domain.detecting import detect
from services.dataset.domain.errors import ChunkMissing, HeaderMissing
from services.dataset.domain.masks import Masks
from services.dataset.domain.names import DatasetName, VersionName
from services.dataset.domain.uploads import Uploads

HEAR_OUT_S = 5.0
_PARQUET = pb.DownloadDatasetVersionRequest.FORMAT_PARQUET


class DatasetServicer(DatasetServiceServicer):
    """The RPCs of anneal.dataset.v1.DatasetService."""

    def __init__(
        self, datasets: Datasets, uploads: Uploads, contents: Contents, masks: Masks
    ) -> None:
        self._datasets = datasets
        self._uploads = uploads
        self._contents = contents
        self._masks = masks

    async def UploadDatasetVersion(
        self, request_iterator: AsyncIterator[pb.UploadDatasetVersionRequest], context: Context
    ) -> dataset_pb2.DatasetVersion:
        async with _heard_out(request_iterator):
            first = await anext(request_iterator, None)
            if first is None or not first.HasField("header"):
                raise HeaderMissing
            header = translation.upload_header(first.header)
            version = await self._uploads.upload(header, _chunks(request_iterator))
        return translation.version_message(version)

    async def DetectDatasetFormat(
        self, request: pb.DetectDatasetFormatRequest, context: Context
    ) -> dataset_pb2.DatasetFormat:
        ProjectName.parse(request.parent, "parent")
        detected = await asyncio.to_thread(
            detect, request.head, request.tail, request.file_name, complete=request.complete
        )
        return translation.format_message(detected)

    async def GetDataset(
        self, request: pb.GetDatasetRequest, context: Context
    ) -> dataset_pb2.Dataset:
        dataset = await self._datasets.get(DatasetName.parse(request.name))
        return translation.dataset_message(dataset)

    async def ListDatasets(
        self, request: pb.ListDatasetsRequest, context: Context
    ) -> pb.ListDatasetsResponse:
        parent = ProjectName.parse(request.parent, "parent")
        page = await self._datasets.list(parent, request.page_size, request.page_token)
        return pb.ListDatasetsResponse(
            datasets=map(translation.dataset_message, page.items),
            next_page_token=page.next_page_token,
        )

    async def DeleteDataset(self, request: pb.DeleteDatasetRequest, context: Context) -> Empty:
        await self._datasets.delete(DatasetName.parse(request.name), request.etag)
        return Empty()

    async def GetDatasetVersion(
        self, request: pb.GetDatasetVersionRequest, context: Context
    ) -> dataset_pb2.DatasetVersion:
        version = await self._datasets.get_version(VersionName.parse(request.name))
        return translation.version_message(version)

    async def ListDatasetVersions(
        self, request: pb.ListDatasetVersionsRequest, context: Context
    ) -> pb.ListDatasetVersionsResponse:
        parent = DatasetName.parse(request.parent, "parent")
        page = await self._datasets.list_versions(parent, request.page_size, request.page_token)
        return pb.ListDatasetVersionsResponse(
            dataset_versions=map(translation.version_message, page.items),
            next_page_token=page.next_page_token,
        )

    async def PreviewDatasetVersion(
        self, request: pb.PreviewDatasetVersionRequest, context: Context
    ) -> pb.PreviewDatasetVersionResponse:
        name = VersionName.parse(request.name)
        page = await self._contents.preview(name, request.page_size, request.page_token)
        return pb.PreviewDatasetVersionResponse(
            examples=map(translation.example_message, page.items),
            next_page_token=page.next_page_token,
        )

    async def PreviewTokens(
        self, request: pb.PreviewTokensRequest, context: Context
    ) -> pb.PreviewTokensResponse:
        asked = translation.asked(request)
        page = await self._masks.preview(
            asked, request.first_row, request.page_size, request.page_token
        )
        return pb.PreviewTokensResponse(
            examples=map(translation.tokenized_message, page.rows),
            next_page_token=page.next_page_token,
            base_model_digest=page.base_model.digest,
        )

    async def ProveMasks(
        self, request: pb.ProveMasksRequest, context: Context
    ) -> AsyncGenerator[pb.ProveMasksResponse]:
        async for proving in self._masks.prove(translation.asked(request)):
            yield translation.proving_message(proving)

    async def DownloadDatasetVersion(
        self, request: pb.DownloadDatasetVersionRequest, context: Context
    ) -> AsyncGenerator[pb.DownloadDatasetVersionResponse]:
        name = VersionName.parse(request.name)
        parquet = request.format == _PARQUET
        contents = self._contents
        async for piece in contents.parquet(name) if parquet else contents.json_lines(name):
            yield pb.DownloadDatasetVersionResponse(chunk=piece)


@asynccontextmanager
async def _heard_out(requests: AsyncIterator[object]) -> AsyncGenerator[None]:
    """Before an upload is refused, its caller may say the rest, for a while.

    A client of grpc.aio whose write fails because the call has ended reports INTERNAL and loses
    the status that the server sent.
    """
    try:
        yield
    except (Fault, ValidationError):
        with suppress(TimeoutError):
            async with asyncio.timeout(HEAR_OUT_S):
                async for _ in requests:
                    pass
        raise


async def _chunks(
    requests: AsyncIterator[pb.UploadDatasetVersionRequest],
) -> AsyncGenerator[bytes]:
    async for request in requests:
        if not request.HasField("chunk"):
            raise ChunkMissing
        yield request.chunk
