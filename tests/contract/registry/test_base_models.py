"""Directories on the operator's list are taken in, whole, once, and without pickles."""

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import grpc
import pytest

from anneal.registry.v1 import registry_service_pb2 as pb
from services.common.manifest import Manifest
from services.registry.domain.base_models import AllowedModel, HubRevision
from services.registry.domain.names import BaseModelName
from tests.unit.registry.test_architecture import IN_BLOCK, LLAMA, llama_shapes, write

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "tiny"
    (directory / "nested").mkdir(parents=True)
    (directory / ".cache").mkdir()
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(b"weights")
    (directory / "nested" / "vocab.txt").write_text("a b c")
    for pickled in ("pytorch_model.bin", "optimizer.PT", "rng.pth", "nested/x.pkl", ".cache/x"):
        (directory / pickled).write_bytes(b"\x80\x04")
    return directory


def tiny(directory: Path) -> AllowedModel:
    return AllowedModel(BaseModelName("tiny-base"), directory)


async def get(caller: Any, name: str = "baseModels/tiny-base") -> Any:
    """The base model, once its files are stored."""
    while True:
        try:
            return await caller.stub.GetBaseModel(pb.GetBaseModelRequest(name=name))
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            await asyncio.sleep(0.02)


async def test_a_directory_is_taken_in_without_pickles_and_hidden_files(
    start: Any, model_dir: Path
) -> None:
    async with start([tiny(model_dir)]) as caller:
        model = await get(caller)

        manifest = Manifest.parse(await caller.blobs.read(model.source.manifest_digest))
        assert [file.path for file in manifest.files] == [
            "config.json",
            "model.safetensors",
            "nested/vocab.txt",
        ]
        assert await caller.blobs.read(manifest.files[1].sha256) == b"weights"
        assert model.digest == model.source.manifest_digest == manifest.digest
        assert model.size_bytes == 2 + 7 + 5


async def test_a_restart_finds_it_and_a_change_gives_it_another_digest(
    start: Any, model_dir: Path
) -> None:
    async with start([tiny(model_dir)]) as caller:
        before = await get(caller)
    async with start([tiny(model_dir)]) as caller:
        assert await get(caller) == before

    (model_dir / "config.json").write_text('{"changed": true}')

    async with start([tiny(model_dir)]) as caller:
        assert (await get(caller)).digest != before.digest


async def test_two_replicas_may_take_it_in_at_the_same_time(start: Any, model_dir: Path) -> None:
    async with start([tiny(model_dir)]) as one, start([tiny(model_dir)]) as other:
        assert await get(one) == await get(other)


async def test_how_a_model_is_built_is_told_if_its_files_tell(
    start: Any, model_dir: Path, tmp_path: Path
) -> None:
    known = tiny(write(tmp_path / "llama", LLAMA, llama_shapes()))
    async with start([known]) as caller:
        told = (await get(caller)).architecture
    async with start([tiny(model_dir)]) as caller:
        unknown = await get(caller)

    assert (told.model_type, told.parameter_count) == ("llama", 50 * 8 + 8 + 2 * IN_BLOCK)
    assert {(one.name, one.input_size, one.output_size) for one in told.linear_layers} >= {
        ("k_proj", 8, 4),
        ("down_proj", 24, 8),
    }
    assert not unknown.HasField("architecture")


async def test_a_hub_model_is_named_by_its_revision(start: Any) -> None:
    entry = AllowedModel(BaseModelName("smol"), HubRevision("owner/name", REVISION))

    async with start([entry]) as caller:
        model = await get(caller, "baseModels/smol")

    assert (model.source.hub.repository, model.source.hub.revision) == ("owner/name", REVISION)
    assert model.digest == hashlib.sha256(f"owner/name@{REVISION}".encode()).hexdigest()
    assert model.size_bytes == 0
    assert not model.HasField("architecture")


async def test_what_is_not_on_the_list_does_not_exist(start: Any, model_dir: Path) -> None:
    async with start([tiny(model_dir)]) as caller:
        await get(caller)
    async with start() as caller:
        request = pb.GetBaseModelRequest(name="baseModels/tiny-base")
        refusal = await caller.refusal(caller.stub.GetBaseModel(request))
        listed = await caller.stub.ListBaseModels(pb.ListBaseModelsRequest())

    assert (refusal.code, refusal.reason) == ("NOT_FOUND", "BASE_MODEL_NOT_FOUND")
    assert not listed.base_models


async def test_base_models_are_listed_by_name_page_by_page(start: Any) -> None:
    names = ["smol", "alpha", "beta"]
    entries = [
        AllowedModel(BaseModelName(name), HubRevision("owner/name", REVISION)) for name in names
    ]

    async with start(entries) as caller:
        await get(caller, "baseModels/beta")
        listed, token = [], ""
        for _ in range(2):
            request = pb.ListBaseModelsRequest(page_size=2, page_token=token)
            page = await caller.stub.ListBaseModels(request)
            listed += [model.name for model in page.base_models]
            token = page.next_page_token

    assert listed == ["baseModels/alpha", "baseModels/beta", "baseModels/smol"]
    assert token == ""
