"""Which files answer for a name, as the registry tells it over the wire."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import grpc
import pytest

from anneal.registry.v1.registry_service_pb2_grpc import (
    RegistryServiceStub,
    add_RegistryServiceServicer_to_server,
)
from services.inference.adapters.registry import RegistryCatalog
from services.inference.domain.errors import BaseModelChanged
from services.inference.domain.models import HubBase, LocalBase, ServedModel, parse_model_name
from tests.contract.inference.conftest import ALIAS, BASE, VERSION, Registry

HUB = HubBase("owner/name", "f" * 40)


@asynccontextmanager
async def catalog_of(registry: Registry) -> AsyncGenerator[RegistryCatalog]:
    server = grpc.aio.server()
    add_RegistryServiceServicer_to_server(registry, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield RegistryCatalog(RegistryServiceStub(channel))
    await server.stop(None)


async def found(catalog: RegistryCatalog, name: str) -> ServedModel:
    return await catalog.find(parse_model_name(name, "p"))


async def test_a_version_keeps_the_base_it_learnt_from_when_the_name_moves_on() -> None:
    registry = Registry("base-1", "adapter")
    async with catalog_of(registry) as catalog:
        before = await found(catalog, ALIAS)
        registry.list_another_base("base-2")
        after = await found(catalog, ALIAS)
        base = await found(catalog, BASE)

    assert before == after == ServedModel(VERSION, LocalBase("base-1"), "adapter")
    assert base == ServedModel(BASE, LocalBase("base-2"))


async def test_a_version_of_a_hub_revision_answers_while_that_is_on_the_list() -> None:
    registry = Registry("revision-1", "adapter", hub_revision=HUB.revision)
    async with catalog_of(registry) as catalog:
        assert await found(catalog, VERSION) == ServedModel(VERSION, HUB, "adapter")
        registry.list_another_base("revision-2")
        with pytest.raises(BaseModelChanged):
            await found(catalog, VERSION)
