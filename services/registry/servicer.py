"""RegistryService: proto ⇄ domain."""

from collections.abc import AsyncIterator

from google.protobuf.empty_pb2 import Empty

from anneal.registry.v1 import base_model_pb2, model_pb2
from anneal.registry.v1 import registry_service_pb2 as pb
from anneal.registry.v1.registry_service_pb2_grpc import RegistryServiceServicer
from services.common import filters
from services.common.errors import Context
from services.common.names import ProjectName
from services.common.paging import Key, PageTokens, page_size, scope_of
from services.registry import translation
from services.registry.domain import card
from services.registry.domain.base_models import BaseModels
from services.registry.domain.catalog import VERSION_FILTER, Models
from services.registry.domain.names import (
    BaseModelName,
    ModelAliasName,
    ModelCardName,
    ModelName,
    ModelVersionName,
)

DEFAULT_PAGE = 50
MAX_PAGE = 1000


class RegistryServicer(RegistryServiceServicer):
    """The RPCs of anneal.registry.v1.RegistryService."""

    def __init__(self, base_models: BaseModels, models: Models, tokens: PageTokens) -> None:
        self._base_models = base_models
        self._models = models
        self._tokens = tokens

    async def GetBaseModel(
        self, request: pb.GetBaseModelRequest, context: Context
    ) -> base_model_pb2.BaseModel:
        model = self._base_models.get(BaseModelName.parse(request.name))
        return translation.base_model_message(model)

    async def ListBaseModels(
        self, request: pb.ListBaseModelsRequest, context: Context
    ) -> pb.ListBaseModelsResponse:
        scope = scope_of("base_models")
        page = self._base_models.page(self._after(request.page_token, scope), _size(request))
        return pb.ListBaseModelsResponse(
            base_models=[translation.base_model_message(item) for item in page.items],
            next_page_token=self._token(page.next_key, scope),
        )

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> model_pb2.Model:
        return translation.model_message(await self._models.get(ModelName.parse(request.name)))

    async def ListModels(
        self, request: pb.ListModelsRequest, context: Context
    ) -> pb.ListModelsResponse:
        project = ProjectName.parse(request.parent, "parent")
        scope = scope_of("models", request.parent)
        after = self._after(request.page_token, scope)
        page = await self._models.page(project, after, _size(request))
        return pb.ListModelsResponse(
            models=[translation.model_message(item) for item in page.items],
            next_page_token=self._token(page.next_key, scope),
        )

    async def GetModelVersion(
        self, request: pb.GetModelVersionRequest, context: Context
    ) -> model_pb2.ModelVersion:
        version = await self._models.version(ModelVersionName.parse(request.name))
        return translation.version_message(version)

    async def ListModelVersions(
        self, request: pb.ListModelVersionsRequest, context: Context
    ) -> pb.ListModelVersionsResponse:
        model = ModelName.parse(request.parent, "parent")
        filter = filters.parse(request.filter, VERSION_FILTER)
        scope = scope_of("versions", request.parent, request.filter)
        after = self._after(request.page_token, scope)
        page = await self._models.versions(model, filter, after, _size(request))
        return pb.ListModelVersionsResponse(
            model_versions=[translation.version_message(item) for item in page.items],
            next_page_token=self._token(page.next_key, scope),
        )

    async def DownloadModelVersion(
        self, request: pb.DownloadModelVersionRequest, context: Context
    ) -> AsyncIterator[pb.DownloadModelVersionResponse]:
        name = ModelVersionName.parse(request.name)
        async for piece in self._models.download(name, request.paths):
            yield pb.DownloadModelVersionResponse(path=piece.path, chunk=piece.chunk)

    async def GetModelCard(
        self, request: pb.GetModelCardRequest, context: Context
    ) -> model_pb2.ModelCard:
        version = await self._models.version(ModelCardName.parse(request.name).of_version())
        paired = self._base_models.is_encoder_decoder(version.lineage.base_model)
        markdown = card.render(version, encoder_decoder=paired)
        return model_pb2.ModelCard(name=str(version.name.card()), markdown=markdown)

    async def GetModelAlias(
        self, request: pb.GetModelAliasRequest, context: Context
    ) -> model_pb2.ModelAlias:
        alias = await self._models.alias(ModelAliasName.parse(request.name))
        return translation.alias_message(alias)

    async def ListModelAliases(
        self, request: pb.ListModelAliasesRequest, context: Context
    ) -> pb.ListModelAliasesResponse:
        model = ModelName.parse(request.parent, "parent")
        scope = scope_of("aliases", request.parent)
        after = self._after(request.page_token, scope)
        page = await self._models.aliases(model, after, _size(request))
        return pb.ListModelAliasesResponse(
            model_aliases=[translation.alias_message(item) for item in page.items],
            next_page_token=self._token(page.next_key, scope),
        )

    async def UpdateModelAlias(
        self, request: pb.UpdateModelAliasRequest, context: Context
    ) -> model_pb2.ModelAlias:
        alias = await self._models.move_alias(translation.alias_move(request))
        return translation.alias_message(alias)

    async def DeleteModelAlias(
        self, request: pb.DeleteModelAliasRequest, context: Context
    ) -> Empty:
        await self._models.delete_alias(ModelAliasName.parse(request.name), request.etag)
        return Empty()

    def _after(self, token: str, scope: str) -> Key | None:
        return self._tokens.decode(token, scope=scope) if token else None

    def _token(self, last: Key | None, scope: str) -> str:
        return "" if last is None else self._tokens.encode(last, scope=scope)


def _size(
    request: pb.ListBaseModelsRequest
    | pb.ListModelsRequest
    | pb.ListModelVersionsRequest
    | pb.ListModelAliasesRequest,
) -> int:
    return page_size(request.page_size, default=DEFAULT_PAGE, maximum=MAX_PAGE)
