"""A running InferenceService over the real worker, beside a registry that knows a few names."""

import shutil
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from anneal.inference.v1.inference_service_pb2_grpc import (
    InferenceServiceStub,
    add_InferenceServiceServicer_to_server,
)
from anneal.registry.v1 import base_model_pb2, model_pb2, registry_service_pb2
from anneal.registry.v1.registry_service_pb2_grpc import (
    RegistryServiceServicer,
    RegistryServiceStub,
    add_RegistryServiceServicer_to_server,
)
from anneal.transport import open_channel
from services.common.blobs import ObstoreBlobs
from services.common.directories import Directories
from services.common.server import ServerSettings, Service, running
from services.inference.adapters.local_backend import LocalBackend
from services.inference.adapters.registry import RegistryCatalog
from services.inference.domain.answers import Answers
from services.inference.servicer import InferenceServicer
from services.tuners import PrefixConfig

BASE_DIR = Path(__file__).parents[3] / "examples" / "tiny-base"
BASE = "baseModels/tiny-base"
VERSION = "projects/p/models/m/versions/v-1"
PREFIX_VERSION = "projects/p/models/m/versions/v-prefix"
WHOLE_VERSION = "projects/p/models/m/versions/v-whole"
ALIAS = "projects/p/models/m/aliases/champion"


class Registry(RegistryServiceServicer):
    """The three answers of the registry that inference asks for, over the wire."""

    def __init__(
        self,
        base_digest: str,
        adapter_digest: str,
        hub_revision: str = "",
        other_versions: Mapping[str, str] | None = None,
    ) -> None:
        self._base_digest = base_digest
        self._digests = {VERSION: adapter_digest, **(other_versions or {})}
        self._lineage = model_pb2.Lineage(base_model=BASE, base_model_digest=base_digest)
        self._hub_revision = hub_revision

    def list_another_base(self, digest: str) -> None:
        """Lets the base's name stand for other files; what was trained before stays."""
        self._base_digest = digest

    async def GetBaseModel(
        self, request: registry_service_pb2.GetBaseModelRequest, context: Any
    ) -> base_model_pb2.BaseModel:
        if request.name != BASE:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such base")
        hub = base_model_pb2.HubRevision(repository="owner/name", revision=self._hub_revision)
        source = (
            base_model_pb2.BaseModelSource(hub=hub)
            if self._hub_revision
            else base_model_pb2.BaseModelSource(manifest_digest=self._base_digest)
        )
        return base_model_pb2.BaseModel(name=BASE, digest=self._base_digest, source=source)

    async def GetModelVersion(
        self, request: registry_service_pb2.GetModelVersionRequest, context: Any
    ) -> model_pb2.ModelVersion:
        if request.name not in self._digests:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such version")
        return model_pb2.ModelVersion(
            name=request.name,
            manifest_digest=self._digests[request.name],
            lineage=self._lineage,
        )

    async def GetModelAlias(
        self, request: registry_service_pb2.GetModelAliasRequest, context: Any
    ) -> model_pb2.ModelAlias:
        if request.name != ALIAS:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such alias")
        return model_pb2.ModelAlias(name=ALIAS, version=VERSION)


@dataclass
class Platform:
    """The service under test, and its parts for tests that break one."""

    stub: Any
    backend: LocalBackend
    registry_server: grpc.aio.Server


@pytest.fixture(scope="session")
def adapter_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter that changes every answer: random, and not small."""
    directory = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(BASE_DIR, dtype=torch.float32)
    tuned = get_peft_model(
        model, LoraConfig(r=4, lora_alpha=64, target_modules=["q_proj", "down_proj"])
    )
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    tuned.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def prefix_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prefix that changes every answer."""
    directory = tmp_path_factory.mktemp("prefix")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(BASE_DIR, dtype=torch.float32)
    tuned = get_peft_model(model, PrefixConfig(prefix_length=16))
    for name, parameter in tuned.named_parameters():
        if "kv_prefix_" in name:
            torch.nn.init.normal_(parameter, std=4.0)
    tuned.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def whole_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model, every weight of which is another than the base's."""
    directory = tmp_path_factory.mktemp("whole") / "model"
    shutil.copytree(BASE_DIR, directory)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(BASE_DIR, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(directory)
    return directory


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def platform(
    tmp_path_factory: pytest.TempPathFactory, adapter_dir: Path, prefix_dir: Path, whole_dir: Path
) -> AsyncGenerator[Platform]:
    """One for all tests of a module: a worker takes seconds to load torch."""
    others = {PREFIX_VERSION: prefix_dir, WHOLE_VERSION: whole_dir}
    async with serving(tmp_path_factory.mktemp("platform"), adapter_dir, others) as platform:
        yield platform


@asynccontextmanager
async def serving(
    directory: Path, adapter_dir: Path, others: Mapping[str, Path] | None = None
) -> AsyncGenerator[Platform]:
    directories = Directories(ObstoreBlobs.open("memory://"), directory / "cache")
    base = await directories.store(BASE_DIR, {})
    adapter = await directories.store(adapter_dir, {})
    other_versions = {
        name: (await directories.store(artifacts, {})).manifest_digest
        for name, artifacts in (others or {}).items()
    }
    registry_server = grpc.aio.server()
    registry = Registry(
        base.manifest_digest, adapter.manifest_digest, other_versions=other_versions
    )
    add_RegistryServiceServicer_to_server(registry, registry_server)
    port = registry_server.add_insecure_port("127.0.0.1:0")
    await registry_server.start()
    backend = LocalBackend(directories, threads=1)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as registry_channel:
        answers = Answers(RegistryCatalog(RegistryServiceStub(registry_channel)), backend)
        service = Service(
            "anneal.inference.v1.InferenceService",
            add_InferenceServiceServicer_to_server,
            InferenceServicer(answers),
            deadlines_s={"GenerateText": 60.0},
        )
        async with (
            running(ServerSettings(), [service], {}) as address,
            open_channel(address) as channel,
        ):
            yield Platform(InferenceServiceStub(channel), backend, registry_server)
    await backend.close()
    await registry_server.stop(None)
