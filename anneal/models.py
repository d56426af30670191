"""Base models, models, their versions and aliases."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from anneal.connection import Connection, items_of_pages, new_request_id
from anneal.errors import NotFound
from anneal.files import PartFile, damaged, folder_aside, path_inside
from anneal.names import Names
from anneal.registry.v1.base_model_pb2 import BaseModel
from anneal.registry.v1.model_pb2 import Artifact, Model, ModelAlias, ModelVersion
from anneal.registry.v1.registry_service_pb2 import (
    DeleteModelAliasRequest,
    DownloadModelVersionRequest,
    DownloadModelVersionResponse,
    GetBaseModelRequest,
    GetModelAliasRequest,
    GetModelCardRequest,
    GetModelRequest,
    GetModelVersionRequest,
    ListBaseModelsRequest,
    ListModelAliasesRequest,
    ListModelsRequest,
    ListModelVersionsRequest,
    UpdateModelAliasRequest,
)
from anneal.registry.v1.registry_service_pb2_grpc import RegistryServiceStub
from anneal.waiting import Patience

Progress = Callable[[int, int], None]
"""Called with the bytes that came over so far and the bytes in all."""


class Models:
    """`client.models`. Names may be short (`support`, `support@latest`, `support/v-…`)."""

    def __init__(self, connection: Connection, names: Names) -> None:
        self._connection = connection
        self._names = names
        self._rpc = RegistryServiceStub(connection.channel)

    def base_model(self, base_model: str) -> BaseModel:
        request = GetBaseModelRequest(name=self._names.base_model(base_model))
        return self._connection.ask(self._rpc.GetBaseModel, request)

    def base_models(self) -> Iterator[BaseModel]:
        """Yields the models that jobs may start from, by name."""

        def page(token: str) -> tuple[Iterable[BaseModel], str]:
            request = ListBaseModelsRequest(page_token=token)
            answer = self._connection.ask(self._rpc.ListBaseModels, request)
            return answer.base_models, answer.next_page_token

        return items_of_pages(page)

    def get(self, model: str) -> Model:
        request = GetModelRequest(name=self._names.model(model))
        return self._connection.ask(self._rpc.GetModel, request)

    def list(self) -> Iterator[Model]:
        """Yields the project's models by name."""

        def page(token: str) -> tuple[Iterable[Model], str]:
            request = ListModelsRequest(parent=self._names.parent, page_token=token)
            answer = self._connection.ask(self._rpc.ListModels, request)
            return answer.models, answer.next_page_token

        return items_of_pages(page)

    def version(self, version: str) -> ModelVersion:
        """Returns a version; `support@champion` gives the one that the alias stands for."""
        name = self._names.answering_model(version) if "@" in version else version
        if "/aliases/" in name:
            name = self._alias(name).version
        request = GetModelVersionRequest(name=self._names.model_version(name))
        return self._connection.ask(self._rpc.GetModelVersion, request)

    def versions(self, model: str, *, filter_text: str = "") -> Iterator[ModelVersion]:
        """Yields a model's versions, newest first; `filter_text` is AIP-160."""

        def page(token: str) -> tuple[Iterable[ModelVersion], str]:
            request = ListModelVersionsRequest(
                parent=self._names.model(model), page_token=token, filter=filter_text
            )
            answer = self._connection.ask(self._rpc.ListModelVersions, request)
            return answer.model_versions, answer.next_page_token

        return items_of_pages(page)

    def wait_for_version(self, version: str, *, timeout_s: float = 60.0) -> ModelVersion:
        """Returns a version as soon as the registry shows it: moments after its job SUCCEEDED.

        Raises NotFound when it does not within `timeout_s`.
        """
        return Patience(timeout_s).call(
            lambda: self.version(version), lambda error: isinstance(error, NotFound)
        )

    def card(self, version: str) -> str:
        """Returns a version's model card, in Markdown."""
        request = GetModelCardRequest(name=f"{self.version(version).name}/card")
        return self._connection.ask(self._rpc.GetModelCard, request).markdown

    def download(
        self,
        version: str,
        directory: Path,
        *,
        paths: Sequence[str] = (),
        on_progress: Progress | None = None,
    ) -> Path:
        """Writes a version's files (only `paths` if given) to `directory`.

        The directory appears when every file is whole and has its sha256, else not at all.
        Raises FileExistsError when it is there and not empty, DataLoss for a damaged file.
        """
        found = self.version(version)
        request = DownloadModelVersionRequest(name=found.name, paths=paths)
        wanted = [one for one in found.artifacts if not paths or one.path in paths]
        with folder_aside(directory) as aside:
            answers = self._connection.follow(self._rpc.DownloadModelVersion, request)
            with closing(answers):
                _write_files(answers, aside, wanted, on_progress)
        return directory

    def alias(self, model: str, alias: str) -> ModelAlias:
        return self._alias(self._names.model_alias(model, alias))

    def aliases(self, model: str) -> Iterator[ModelAlias]:
        """Yields a model's aliases by name."""

        def page(token: str) -> tuple[Iterable[ModelAlias], str]:
            parent = self._names.model(model)
            request = ListModelAliasesRequest(parent=parent, page_token=token)
            answer = self._connection.ask(self._rpc.ListModelAliases, request)
            return answer.model_aliases, answer.next_page_token

        return items_of_pages(page)

    def set_alias(self, model: str, alias: str, version: str = "", *, etag: str = "") -> ModelAlias:
        """Makes an alias or moves it to `version`, by default the newest of the model.

        With an etag it moves only if that is the alias's present one: else Aborted.
        """
        to = self.version(_version_of(model, version))
        moved = ModelAlias(name=self._names.model_alias(model, alias), version=to.name, etag=etag)
        request = UpdateModelAliasRequest(
            model_alias=moved, allow_missing=not etag, request_id=new_request_id()
        )
        return self._connection.ask(self._rpc.UpdateModelAlias, request)

    def delete_alias(self, model: str, alias: str, *, etag: str = "") -> None:
        request = DeleteModelAliasRequest(name=self._names.model_alias(model, alias), etag=etag)
        self._connection.ask(self._rpc.DeleteModelAlias, request)

    def _alias(self, name: str) -> ModelAlias:
        request = GetModelAliasRequest(name=name)
        return self._connection.ask(self._rpc.GetModelAlias, request)


def _version_of(model: str, version: str) -> str:
    """`v-…` of `support` is `support/v-…`; a version with its model in front stays."""
    if not version:
        return model
    return version if "/" in version or "@" in version else f"{model}@{version}"


def _write_files(
    answers: Iterator[DownloadModelVersionResponse],
    folder: Path,
    wanted: Sequence[Artifact],
    on_progress: Progress | None,
) -> None:
    digests = {artifact.path: artifact.sha256 for artifact in wanted}
    size_bytes = sum(artifact.size_bytes for artifact in wanted)
    came = 0
    files: dict[str, PartFile] = {}
    try:
        for answer in answers:
            if answer.path not in files:
                files[answer.path] = PartFile(path_inside(folder, answer.path))
            files[answer.path].write(answer.chunk)
            came += len(answer.chunk)
            if on_progress is not None:
                on_progress(came, size_bytes)
        for path, file in files.items():
            file.finish(digests.pop(path, ""))
    finally:
        for file in files.values():
            file.abandon()
    if digests:
        raise damaged(", ".join(digests), "it is missing")
