"""Supervised training datasets: upload, look at, download, delete."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from os import SEEK_END
from pathlib import Path

from anneal.connection import Connection, items_of_pages, new_request_id
from anneal.dataset.v1.dataset_pb2 import (
    CONTAINER_UNSPECIFIED,
    SOURCE_FORMAT_UNSPECIFIED,
    Container,
    Dataset,
    DatasetFormat,
    DatasetVersion,
    Example,
    MaskProof,
    SourceFormat,
    TokenizedExample,
)
from anneal.dataset.v1.dataset_service_pb2 import (
    DeleteDatasetRequest,
    DetectDatasetFormatRequest,
    DocumentChunks,
    DownloadDatasetVersionRequest,
    GetDatasetRequest,
    GetDatasetVersionRequest,
    ListDatasetsRequest,
    ListDatasetVersionsRequest,
    PreviewDatasetVersionRequest,
    PreviewTokensRequest,
    ProveMasksRequest,
    UploadDatasetVersionRequest,
    UploadHeader,
)
from anneal.dataset.v1.dataset_service_pb2_grpc import DatasetServiceStub
from anneal.errors import Refusal, Unavailable
from anneal.files import PartFile, file_aside
from anneal.names import Names
from anneal.waiting import Patience

Format = DownloadDatasetVersionRequest.Format
Progress = Callable[[int, int], None]
"""Called with the bytes that went over so far and the bytes in all, from a thread of gRPC."""

CHUNK_BYTES = 512 * 1024
HEAD_BYTES = 1024 * 1024
PARQUET_MAGIC = b"PAR1"
UPLOAD_PATIENCE_S = 10.0


class Datasets:
    """`client.datasets`. Names may be short (`support`, `support@latest`, `support/v-…`)."""

    def __init__(self, connection: Connection, names: Names) -> None:
        self._connection = connection
        self._names = names
        self._rpc = DatasetServiceStub(connection.channel)

    def upload(
        self,
        source: Path,
        dataset: str,
        *,
        source_format: SourceFormat.ValueType = SOURCE_FORMAT_UNSPECIFIED,
        prompt_field: str = "",
        completion_field: str = "",
        text_field: str = "",
        columns: Mapping[str, str] | None = None,
        container: Container.ValueType = CONTAINER_UNSPECIFIED,
        document: DocumentChunks | None = None,
        validate_only: bool = False,
        on_progress: Progress | None = None,
    ) -> DatasetVersion:
        """Stores the rows of a file as a new version of `dataset`. `columns` are by the fields of
        `source_format`; `detect` proposes both, and the `container`. A document becomes chunks of
        plain text, as `document` says.

        The file is hashed first: only the digest proves to the service that it got all of it.
        A lost connection is taken up again, from the start and under the same request id, so
        that nothing is stored twice. Raises UploadRejected when any line is bad, OSError when the
        file cannot be read.
        """
        header = UploadHeader(
            parent=self._names.dataset(dataset),
            request_id=new_request_id(),
            format=source_format,
            prompt_field=prompt_field,
            completion_field=completion_field,
            text_field=text_field,
            columns=columns,
            container=container,
            document=document,
            sha256=_sha256_of(source),
            validate_only=validate_only,
        )
        return Patience(UPLOAD_PATIENCE_S).call(
            lambda: self._upload_once(header, source, on_progress),
            lambda error: isinstance(error, Unavailable),
        )

    def detect(self, source: Path) -> DatasetFormat:
        """Tells from the beginning of a file how its rows can be read, and what is wrong with the
        first of them. Raises OSError when the file cannot be read."""
        with source.open("rb") as file:
            head = file.read(HEAD_BYTES)
            complete = not file.read(1)
            size_bytes = file.seek(0, SEEK_END)
            file.seek(max(0, size_bytes - HEAD_BYTES))
            tail = file.read() if head.startswith(PARQUET_MAGIC) else b""
        request = DetectDatasetFormatRequest(
            parent=self._names.parent,
            head=head,
            complete=complete,
            file_name=source.name,
            tail=tail,
        )
        return self._connection.ask(self._rpc.DetectDatasetFormat, request)

    def get(self, dataset: str) -> Dataset:
        request = GetDatasetRequest(name=self._names.dataset(dataset))
        return self._connection.ask(self._rpc.GetDataset, request)

    def list(self) -> Iterator[Dataset]:
        """Yields the project's datasets by name."""

        def page(token: str) -> tuple[Iterable[Dataset], str]:
            request = ListDatasetsRequest(parent=self._names.parent, page_token=token)
            answer = self._connection.ask(self._rpc.ListDatasets, request)
            return answer.datasets, answer.next_page_token

        return items_of_pages(page)

    def delete(self, dataset: str, *, etag: str = "") -> None:
        """Deletes a dataset with all its versions. With an etag: only if it is the present one."""
        request = DeleteDatasetRequest(name=self._names.dataset(dataset), etag=etag)
        self._connection.ask(self._rpc.DeleteDataset, request)

    def version(self, version: str) -> DatasetVersion:
        request = GetDatasetVersionRequest(name=self._names.dataset_version(version))
        return self._connection.ask(self._rpc.GetDatasetVersion, request)

    def versions(self, dataset: str) -> Iterator[DatasetVersion]:
        """Yields a dataset's versions, newest first."""

        def page(token: str) -> tuple[Iterable[DatasetVersion], str]:
            parent = self._names.dataset(dataset)
            request = ListDatasetVersionsRequest(parent=parent, page_token=token)
            answer = self._connection.ask(self._rpc.ListDatasetVersions, request)
            return answer.dataset_versions, answer.next_page_token

        return items_of_pages(page)

    def preview(self, version: str, *, limit: int | None = None) -> Iterator[Example]:
        """Yields a version's examples in their order, all of them or the first `limit`."""
        name = self._names.dataset_version(version)

        def page(token: str) -> tuple[Iterable[Example], str]:
            request = PreviewDatasetVersionRequest(
                name=name, page_size=min(limit or 200, 200), page_token=token
            )
            answer = self._connection.ask(self._rpc.PreviewDatasetVersion, request)
            return answer.examples, answer.next_page_token

        return islice(items_of_pages(page), limit)

    def tokens(
        self,
        version: str,
        base_model: str,
        *,
        first_row: int = 0,
        limit: int | None = None,
        max_tokens: int | None = None,
    ) -> Iterator[TokenizedExample]:
        """Yields rows as the tokens that training would see with a base model, from the first one
        on: all of them or `limit`. `max_tokens` is a job's `max_sequence_tokens`."""
        name, base = self._names.dataset_version(version), self._names.base_model(base_model)

        def page(token: str) -> tuple[Iterable[TokenizedExample], str]:
            request = PreviewTokensRequest(
                name=name,
                base_model=base,
                max_tokens=max_tokens,
                first_row=first_row,
                page_size=min(limit or 100, 100),
                page_token=token,
            )
            answer = self._connection.ask(self._rpc.PreviewTokens, request)
            return answer.examples, answer.next_page_token

        return islice(items_of_pages(page), limit)

    def prove_masks(
        self,
        version: str,
        base_model: str,
        *,
        max_tokens: int | None = None,
        on_progress: Callable[[MaskProof], None] | None = None,
    ) -> MaskProof:
        """Has every row looked at: whether it can be learnt, and nothing that should not be. Calls
        `on_progress` with what has been seen so far. Raises Unavailable if the service goes away
        before the end."""
        request = ProveMasksRequest(
            name=self._names.dataset_version(version),
            base_model=self._names.base_model(base_model),
            max_tokens=max_tokens,
        )
        for answer in self._connection.follow(self._rpc.ProveMasks, request):
            if answer.complete:
                return answer.proof
            if on_progress is not None:
                on_progress(answer.proof)
        message = "the proof ended before all rows were looked at"
        raise Unavailable(Refusal("UNAVAILABLE", "PROOF_ENDED", message))

    def download(
        self,
        version: str,
        target: Path,
        *,
        file_format: Format.ValueType = DownloadDatasetVersionRequest.FORMAT_JSONL,
    ) -> Path:
        """Writes a version to `target`, which appears only when it is whole.

        A Parquet file is checked against the version's digest: DataLoss if it differs.
        """
        found = self.version(version)
        request = DownloadDatasetVersionRequest(name=found.name, format=file_format)
        is_canonical = file_format == DownloadDatasetVersionRequest.FORMAT_PARQUET
        with file_aside(target) as aside:
            part = PartFile(aside)
            for answer in self._connection.follow(self._rpc.DownloadDatasetVersion, request):
                part.write(answer.chunk)
            part.finish(found.digest if is_canonical else "")
        return target

    def _upload_once(
        self, header: UploadHeader, source: Path, on_progress: Progress | None
    ) -> DatasetVersion:
        reader = _Reader(source, on_progress)
        try:
            return self._connection.send(self._rpc.UploadDatasetVersion, reader.requests(header))
        finally:
            reader.raise_failure()


def _sha256_of(source: Path) -> str:
    with source.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Reader:
    """Cuts a file into an upload's messages. gRPC iterates them in a thread of its own, and would
    only say that something failed there: what did is kept for the caller.
    """

    def __init__(self, source: Path, on_progress: Progress | None) -> None:
        self._source = source
        self._size_bytes = source.stat().st_size
        self._on_progress = on_progress
        self._failure: Exception | None = None

    def requests(self, header: UploadHeader) -> Iterator[UploadDatasetVersionRequest]:
        yield UploadDatasetVersionRequest(header=header)
        try:
            yield from self._chunks()
        except Exception as error:
            self._failure = error
            raise

    def raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _chunks(self) -> Iterator[UploadDatasetVersionRequest]:
        sent = 0
        with self._source.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield UploadDatasetVersionRequest(chunk=chunk)
                sent += len(chunk)
                if self._on_progress is not None:
                    self._on_progress(sent, self._size_bytes)
