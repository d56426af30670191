"""The scripted dataset service."""

import hashlib
from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty

from anneal.dataset.v1 import dataset_service_pb2 as dataset_service
from anneal.dataset.v1.dataset_pb2 import (
    Dataset,
    DatasetFormat,
    DatasetVersion,
    LineFault,
    UploadRejection,
)
from anneal.dataset.v1.dataset_service_pb2_grpc import DatasetServiceServicer
from tests.contract.anneal.scripted import (
    VERSION_ID,
    Context,
    World,
    abort,
    not_found,
    page_of,
    status,
)


class ScriptedDatasets(DatasetServiceServicer):
    def __init__(self, world: World) -> None:
        self.world = world

    def UploadDatasetVersion(self, requests: Iterator[Any], context: Context) -> DatasetVersion:
        header = next(requests).header
        self.world.heard("UploadDatasetVersion", header, context)
        content = b""
        for request in requests:
            content += request.chunk
            if self.world.uploads_cut_off:
                self.world.uploads_cut_off -= 1
                context.abort(grpc.StatusCode.UNAVAILABLE, "going down")
        lines = content.splitlines()
        bad = [n for n, line in enumerate(lines, 1) if not line.startswith(b"{")]
        if bad:
            rejection = UploadRejection(
                faults=[
                    LineFault(line=n, code="NOT_JSON", pointer="", message="this is no JSON")
                    for n in bad[:100]
                ],
                fault_count=len(bad),
                line_count=len(lines),
            )
            abort(
                context,
                status(grpc.StatusCode.INVALID_ARGUMENT, "UPLOAD_REJECTED", "bad lines", rejection),
            )
        self.world.uploads.append((header, content))
        return DatasetVersion(
            name=f"{header.parent}/versions/{VERSION_ID}",
            example_count=len(lines),
            size_bytes=len(content),
            digest=hashlib.sha256(content).hexdigest(),
        )

    def DetectDatasetFormat(self, request: Any, context: Context) -> DatasetFormat:
        self.world.heard("DetectDatasetFormat", request, context)
        return self.world.detected

    def GetDataset(self, request: Any, context: Context) -> Dataset:
        self.world.heard("GetDataset", request, context)
        found = [one for one in self.world.datasets if one.name == request.name]
        if not found:
            abort(context, not_found(request.name))
        return found[0]

    def ListDatasets(self, request: Any, context: Context) -> Any:
        self.world.heard("ListDatasets", request, context)
        items, token = page_of(self.world.datasets, request.page_token)
        return dataset_service.ListDatasetsResponse(datasets=items, next_page_token=token)

    def DeleteDataset(self, request: Any, context: Context) -> Empty:
        self.world.heard("DeleteDataset", request, context)
        return Empty()

    def GetDatasetVersion(self, request: Any, context: Context) -> DatasetVersion:
        self.world.heard("GetDatasetVersion", request, context)
        digest = hashlib.sha256(self.world.uploads[-1][1]).hexdigest()
        name = request.name.replace("latest", VERSION_ID)
        return DatasetVersion(name=name, digest=digest, example_count=3)

    def ListDatasetVersions(self, request: Any, context: Context) -> Any:
        version = DatasetVersion(name=f"{request.parent}/versions/{VERSION_ID}", example_count=3)
        return dataset_service.ListDatasetVersionsResponse(dataset_versions=[version])

    def PreviewDatasetVersion(self, request: Any, context: Context) -> Any:
        self.world.heard("PreviewDatasetVersion", request, context)
        items, token = page_of(self.world.examples, request.page_token)
        return dataset_service.PreviewDatasetVersionResponse(examples=items, next_page_token=token)

    def PreviewTokens(self, request: Any, context: Context) -> Any:
        self.world.heard("PreviewTokens", request, context)
        items, token = page_of(self.world.tokenized, request.page_token)
        return dataset_service.PreviewTokensResponse(examples=items, next_page_token=token)

    def ProveMasks(self, request: Any, context: Context) -> Iterator[Any]:
        self.world.heard("ProveMasks", request, context)
        for number, proof in enumerate(self.world.proofs):
            yield dataset_service.ProveMasksResponse(proof=proof, complete=number == 1)

    def DownloadDatasetVersion(self, request: Any, context: Context) -> Iterator[Any]:
        content = self.world.uploads[-1][1]
        if self.world.damaged:
            content = content[:-1]
        for start in range(0, len(content), 300_000):
            yield dataset_service.DownloadDatasetVersionResponse(
                chunk=content[start : start + 300_000]
            )
