"""PreviewTokens and ProveMasks, as a caller sees them, beside a registry that lists some models."""

import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from anneal.common.v1 import conversation_pb2
from anneal.dataset.v1 import dataset_service_pb2 as pb
from anneal.registry.v1 import base_model_pb2
from anneal.registry.v1.registry_service_pb2_grpc import (
    RegistryServiceServicer,
    RegistryServiceStub,
    add_RegistryServiceServicer_to_server,
)
from services.common.blobs import ObstoreBlobs
from services.common.directories import Directories
from services.common.faults import Unavailable
from services.dataset.adapters import encoders
from services.dataset.adapters.registry import RegistryBaseModels
from services.dataset.domain import masks
from services.dataset.domain.names import BaseModelName
from tests.contract.dataset.caller import PARENT, Caller, Refusal, chat, document
from tests.contract.dataset.conftest import serving
from tests.unit.chat.families import BROKEN, FAMILIES

LATEST = f"{PARENT}/versions/latest"
HUB = base_model_pb2.HubRevision(repository="owner/name", revision="f" * 40)


@dataclass
class Registry(RegistryServiceServicer):
    """The one answer of the registry that this service asks for, over the wire."""

    listed: dict[str, base_model_pb2.BaseModel] = field(default_factory=dict)

    async def GetBaseModel(self, request: Any, context: Any) -> base_model_pb2.BaseModel:
        if request.name not in self.listed:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such base model")
        return self.listed[request.name]

    def lists(self, name: str, manifest_digest: str) -> None:
        source = base_model_pb2.BaseModelSource(manifest_digest=manifest_digest)
        self.listed[f"baseModels/{name}"] = base_model_pb2.BaseModel(
            name=f"baseModels/{name}", digest=manifest_digest, source=source
        )


@dataclass
class Shop:
    """A caller, and the registry that the service asks."""

    caller: Caller
    registry: Registry
    tmp_path: Path

    async def lists(self, family: str) -> str:
        """Puts a family's model on the list; its weights are a blob that must not be fetched."""
        directory = {**FAMILIES, **BROKEN}[family].directory(self.tmp_path / "models")
        (directory / "model.safetensors").write_bytes(family.encode() * 100)
        return await self.lists_directory(family.replace("_", "-"), directory)

    async def lists_directory(self, name: str, directory: Path) -> str:
        blobs = ObstoreBlobs.open(self.caller.blobs_dir.as_uri())
        stored = await Directories(blobs, self.tmp_path / "cache").store(directory, {})
        self.registry.lists(name, stored.manifest_digest)
        return f"baseModels/{name}"

    async def tokens(self, base_model: str, **request: Any) -> pb.PreviewTokensResponse:
        request = {"name": LATEST, "base_model": base_model, **request}
        return await self.caller.stub.PreviewTokens(pb.PreviewTokensRequest(**request))

    async def refused(self, base_model: str, **request: Any) -> Refusal:
        return await self.caller.refused(self.tokens(base_model, **request))

    async def proofs(self, base_model: str, **request: Any) -> list[pb.ProveMasksResponse]:
        asked = pb.ProveMasksRequest(name=LATEST, base_model=base_model, **request)
        return [answer async for answer in self.caller.stub.ProveMasks(asked)]


@pytest.fixture
async def shop(sqlite_url: str, tmp_path: Path) -> AsyncGenerator[Shop]:
    registry = Registry()
    server = grpc.aio.server()
    add_RegistryServiceServicer_to_server(registry, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        base_models = RegistryBaseModels(RegistryServiceStub(channel))
        async with serving(sqlite_url, tmp_path, base_models=base_models) as caller:
            yield Shop(caller, registry, tmp_path)
    await server.stop(None)


def texts(tokens: Any, **those: Any) -> str:
    """Of the tokens whose fields are these."""
    chosen = [one for one in tokens if all(getattr(one, k) == v for k, v in those.items())]
    return "".join(one.text for one in chosen)


async def test_tokens_are_shown_with_their_roles_and_what_is_trained(shop: Shop) -> None:
    base = await shop.lists("chatml")
    await shop.caller.upload(chat("1+1?", "2"), chat("2+2?", "4", weight=0.5))

    page = await shop.tokens(base, first_row=1)

    (example,) = page.examples
    assert (example.index, list(example.breaches), page.next_page_token) == (1, [], "")
    assert page.base_model_digest == shop.registry.listed[base].digest
    (sequence,) = example.sequences
    assert texts(sequence.tokens) == (
        "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n4<|im_end|>\n"
    )
    assert texts(sequence.tokens, trained=True) == "4<|im_end|>"
    assert texts(sequence.tokens, role=conversation_pb2.ROLE_USER) == "2+2?"
    assert texts(sequence.tokens, role=conversation_pb2.ROLE_ASSISTANT) == "4<|im_end|>"
    assert {one.weight for one in sequence.tokens} == {0.0, 0.5}
    assert (sequence.token_count, sequence.trained_token_count) == (len(sequence.tokens), 2)
    assert not sequence.truncated


async def test_what_is_cut_off_is_told(shop: Shop) -> None:
    base = await shop.lists("chatml")
    await shop.caller.upload(chat("1?", "A long answer that goes on and on. " * 5))

    (example,) = (await shop.tokens(base, max_tokens=16)).examples

    (sequence,) = example.sequences
    assert sequence.truncated
    assert [one.cut_off for one in sequence.tokens].index(True) == 16
    assert not texts(sequence.tokens, trained=True, cut_off=True)
    (whole,) = (await shop.tokens(base)).examples[0].sequences
    assert not whole.truncated
    assert whole.token_count == sequence.token_count


async def test_an_encoder_decoder_reads_a_source(shop: Shop) -> None:
    base = await shop.lists("t5")
    await shop.caller.upload(chat("1+1?", "2"))

    (example,) = (await shop.tokens(base)).examples

    (sequence,) = example.sequences
    assert texts(sequence.tokens, source=True) == "1+1?</s>"
    assert texts(sequence.tokens, trained=True) == "2</s>"


async def test_a_plain_text_is_shown_in_pieces(shop: Shop) -> None:
    base = await shop.lists("chatml")
    await shop.caller.upload(document("All parcels are blue."))

    (example,) = (await shop.tokens(base, max_tokens=8)).examples

    pieces = [texts(sequence.tokens, trained=True) for sequence in example.sequences]
    assert len(pieces) > 1
    assert "".join(pieces) == "ll parcels are blue.</s>"


async def test_pages_go_through_all_rows_of_the_version_they_began_with(shop: Shop) -> None:
    base = await shop.lists("chatml")
    await shop.caller.upload(*[chat(f"{number}?", str(number)) for number in range(7)])

    page = await shop.tokens(base, page_size=3)
    await shop.caller.upload(chat("other?", "yes"))
    rows = [example.index for example in page.examples]
    while page.next_page_token:
        page = await shop.tokens(base, page_size=3, page_token=page.next_page_token)
        rows += [example.index for example in page.examples]

    assert rows == list(range(7))


async def test_a_page_ends_at_20000_tokens_and_so_does_a_row(shop: Shop) -> None:
    base = await shop.lists("chatml")
    await shop.caller.upload(
        chat("a", "#" * 15_000), chat("b", "#" * 9_000), chat("c", "#" * 30_000)
    )

    first = await shop.tokens(base, page_size=3)
    assert [example.index for example in first.examples] == [0]
    last = await shop.tokens(base, first_row=2)
    (sequence,) = last.examples[0].sequences
    assert len(sequence.tokens) == masks.MAX_PAGE_TOKENS < 30_000 < sequence.token_count


async def test_what_is_asked_wrongly_is_named(shop: Shop) -> None:
    base = await shop.lists("chatml")
    await shop.caller.upload(chat(), chat("2?"))

    for asked, reason, named in (
        ({"first_row": 2}, "ROW_OUT_OF_RANGE", "first_row"),
        ({"first_row": -1}, "ROW_OUT_OF_RANGE", "first_row"),
        ({"max_tokens": 0}, "OUT_OF_RANGE", "max_tokens"),
        ({"max_tokens": 2**20 + 1}, "OUT_OF_RANGE", "max_tokens"),
        ({"page_token": "x"}, "PAGE_TOKEN_INVALID", "page_token"),
    ):
        assert await shop.refused(base, **asked) == Refusal("INVALID_ARGUMENT", reason, (named,))
    missing = await shop.refused("baseModels/other")
    assert missing == Refusal("NOT_FOUND", "BASE_MODEL_NOT_FOUND")
    missing = await shop.refused(base, name=f"{PARENT}/versions/v-0123456789abcdef")
    assert missing == Refusal("NOT_FOUND", "DATASET_VERSION_NOT_FOUND")


async def test_models_that_cannot_show_tokens_are_named(shop: Shop) -> None:
    await shop.caller.upload(document())
    pairs = await shop.lists("t5")
    lacks = await shop.refused(pairs)
    assert lacks == Refusal("INVALID_ARGUMENT", "MODEL_LACKS_TEXTS", ("base_model",))

    await shop.caller.upload(chat())
    source = base_model_pb2.BaseModelSource(hub=HUB)
    shop.registry.listed["baseModels/hub"] = base_model_pb2.BaseModel(source=source)
    elsewhere = await shop.refused("baseModels/hub")
    assert elsewhere == Refusal("FAILED_PRECONDITION", "BASE_MODEL_ELSEWHERE")

    directory = FAMILIES["qwen"].directory(shop.tmp_path / "bare")
    (directory / "chat_template.jinja").unlink()
    bare = await shop.lists_directory("bare", directory)
    assert await shop.refused(bare) == Refusal("FAILED_PRECONDITION", "TEMPLATE_UNSUPPORTED")
    (directory / "tokenizer.json").write_text("{}")
    bad = await shop.lists_directory("bad", directory)
    assert await shop.refused(bad) == Refusal("FAILED_PRECONDITION", "TOKENIZER_UNUSABLE")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await shop.proofs(bad)
    assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_a_service_without_a_registry_says_so(caller: Caller) -> None:
    await caller.upload(chat())
    request = pb.PreviewTokensRequest(name=LATEST, base_model="baseModels/tiny-base")
    refused = await caller.refused(caller.stub.PreviewTokens(request))
    assert refused == Refusal("FAILED_PRECONDITION", "REGISTRY_UNKNOWN")


async def test_a_registry_that_is_down_is_no_fault_of_the_caller() -> None:
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        base_models = RegistryBaseModels(RegistryServiceStub(channel))
        with pytest.raises(Unavailable, match="registry does not answer"):
            await base_models.find(BaseModelName("tiny-base"))


async def test_weights_are_never_fetched_and_an_encoder_is_made_once(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = await shop.lists("chatml")
    await shop.caller.upload(chat())
    fetched: list[Path] = []
    fetch = ObstoreBlobs.fetch

    async def noted(blobs: ObstoreBlobs, digest: str, to: Path) -> None:
        fetched.append(to)
        await fetch(blobs, digest, to)

    monkeypatch.setattr(ObstoreBlobs, "fetch", noted)
    for _ in range(2):
        await shop.tokens(base)
    names = [path.name for path in fetched]
    assert sorted(names) == sorted(set(names))
    assert set(names) <= set(encoders.TOKENIZER_FILES)
    assert not any(path.exists() for path in fetched)
    assert (await shop.caller.kept())["spooled"] == 0


async def test_a_proof_tells_how_far_it_has_come_and_counts_all_rows(shop: Shop) -> None:
    base = await shop.lists("chatml")
    count = 2 * masks.PROVED_AT_ONCE + 10
    version = await shop.caller.upload(*[chat(f"{n}?", "yes" * 50) for n in range(count)])

    answers = await shop.proofs(base, max_tokens=40)

    assert [answer.proof.row_count for answer in answers] == [256, 512, count]
    assert [answer.complete for answer in answers] == [False, False, True]
    last = answers[-1]
    assert (last.dataset_version, last.proof.truncated_row_count) == (version.name, count)
    assert last.proof.trained_token_count > count
    assert (last.proof.breach_count, len(last.proof.breaches)) == (0, 0)


async def test_a_proof_names_the_rows_that_break_the_contract(shop: Shop) -> None:
    base = await shop.lists("broken_greedy")
    await shop.caller.upload(chat("1?", "1"), chat("2?", "2"))

    (answer,) = await shop.proofs(base)

    breaches = [(one.index, one.code) for one in answer.proof.breaches]
    assert breaches == [(0, "USER_TOKEN_TRAINED"), (1, "USER_TOKEN_TRAINED")]
    assert (answer.proof.breaching_row_count, answer.proof.breach_count) == (2, 2)
    (example,) = (await shop.tokens(base)).examples
    assert [one.code for one in example.breaches] == ["USER_TOKEN_TRAINED"]
    assert texts(example.sequences[0].tokens, trained=True).startswith("<|im_start|>user\n1?")


async def test_rows_that_cannot_be_written_or_lose_their_answer_are_breaches(shop: Shop) -> None:
    base = await shop.lists("llama2")
    call = {"id": "1", "type": "function", "function": {"name": "area", "arguments": "{}"}}
    turns = [
        {"role": "user", "content": "How large?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "9", "tool_call_id": "1"},
        {"role": "assistant", "content": "9."},
    ]
    with_tools = json.dumps({"messages": turns}).encode() + b"\n"
    await shop.caller.upload(with_tools, chat("why? " * 100, "so"), chat())

    (answer,) = await shop.proofs(base, max_tokens=32)

    assert [(one.index, one.code) for one in answer.proof.breaches] == [
        (0, "TEMPLATE_UNSUPPORTED"),
        (1, "NO_TRAINED_TOKEN"),
    ]
    (example,) = (await shop.tokens(base)).examples
    assert (len(example.sequences), len(example.breaches)) == (0, 1)


async def test_preferences_are_refused(shop: Shop) -> None:
    base = await shop.lists("chatml")
    row = {"prompt": "1+1?", "chosen": "2", "rejected": "3"}
    await shop.caller.upload(json.dumps(row).encode() + b"\n")
    refused = await shop.refused(base)
    assert refused == Refusal("FAILED_PRECONDITION", "PREFERENCES_UNSUPPORTED")
