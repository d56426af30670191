"""Worker processes: started once a base, never left behind, and not killed by bad adapters."""

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import pytest_asyncio
import torch
from safetensors.torch import load_file, save_file
from transformers import T5Config, T5ForConditionalGeneration

from services.common.blobs import ObstoreBlobs
from services.common.directories import Directories
from services.inference.adapters.local_backend import LocalBackend
from services.inference.adapters.worker_process import WorkerProcess
from services.inference.domain.errors import ModelUnusable, WorkerStopped
from services.inference.domain.generation import Sampling, Turn
from services.inference.domain.models import LocalBase, ServedModel
from services.inference.worker import protocol
from tests.contract.inference.conftest import BASE, BASE_DIR, VERSION

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUESTION = (Turn("user", "What does os.path.join do?"),)
ANSWERED = (*QUESTION, Turn("assistant", "It joins paths."))
WEIGHTS = "adapter_model.safetensors"


@dataclass
class Host:
    """A backend and the base that it can run."""

    backend: LocalBackend
    directories: Directories
    base: ServedModel

    async def tuned(self, adapter_dir: Path) -> ServedModel:
        adapter = await self.directories.store(adapter_dir, {})
        return ServedModel(VERSION, self.base.base, adapter.manifest_digest)

    async def text(self, model: ServedModel, tokens: int = 8) -> str:
        pieces = self.backend.generate(model, QUESTION, Sampling(max_output_tokens=tokens))
        return "".join([piece.text async for piece in pieces])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def host(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Host]:
    cache = tmp_path_factory.mktemp("host")
    directories = Directories(ObstoreBlobs.open("memory://"), cache)
    base = await directories.store(BASE_DIR, {})
    backend = LocalBackend(directories, threads=1)
    yield Host(backend, directories, ServedModel(BASE, LocalBase(base.manifest_digest)))
    await backend.close()


def spoil(directory: Path, how: str) -> None:
    config_path, weights_path = directory / "adapter_config.json", directory / WEIGHTS
    config, weights = json.loads(config_path.read_bytes()), load_file(weights_path)
    match how:
        case "of another shape":
            weights = {name: torch.cat([tensor, tensor]) for name, tensor in weights.items()}
        case "for other layers":
            config["target_modules"] = ["no_such_layer"]
        case "half there":
            weights.popitem()
        case "of another kind":
            config["peft_type"] = "IA3"
        case "diverged":
            weights = {name: tensor * torch.nan for name, tensor in weights.items()}
        case _:
            raise ValueError(how)
    config_path.write_text(json.dumps(config))
    save_file(weights, weights_path)


@pytest.mark.parametrize(
    "how", ["of another shape", "for other layers", "half there", "of another kind", "diverged"]
)
async def test_an_unusable_adapter_is_refused_and_harms_no_other_model(
    host: Host, adapter_dir: Path, tmp_path: Path, how: str
) -> None:
    spoilt_dir = shutil.copytree(adapter_dir, tmp_path / "spoilt")
    spoil(spoilt_dir, how)
    spoilt, good = await host.tuned(spoilt_dir), await host.tuned(adapter_dir)
    before = await host.text(host.base)
    (worker,) = host.backend.workers

    for _ in range(2):
        with pytest.raises(ModelUnusable):
            await host.text(spoilt)
        with pytest.raises(ModelUnusable):
            await host.backend.score(spoilt, ANSWERED)

    assert await host.text(host.base) == before
    assert await host.text(good) != before
    assert await host.text(host.base) == before
    assert host.backend.workers == (worker,)


@pytest.mark.parametrize("missing", ["adapter_config.json", WEIGHTS])
async def test_files_that_are_no_adapter_are_refused(
    host: Host, adapter_dir: Path, tmp_path: Path, missing: str
) -> None:
    incomplete = shutil.copytree(adapter_dir, tmp_path / "incomplete")
    (incomplete / missing).unlink()

    with pytest.raises(ModelUnusable, match=missing):
        await host.text(await host.tuned(incomplete))


async def test_an_answer_that_is_closed_early_leaves_no_request_behind(host: Host) -> None:
    pieces = host.backend.generate(host.base, QUESTION, Sampling(max_output_tokens=400))
    await anext(pieces)
    await pieces.aclose()

    assert await host.text(host.base)


async def test_closing_an_answer_whose_worker_died_raises_nothing(host: Host) -> None:
    pieces = host.backend.generate(host.base, QUESTION, Sampling(max_output_tokens=400))
    await anext(pieces)
    for worker in host.backend.workers:
        await worker.stop()
    await pieces.aclose()

    assert await host.text(host.base)


async def test_an_encoder_decoder_answers_without_a_chat_template(tmp_path: Path) -> None:
    base_dir = tmp_path / "t5"
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=3072,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=2,
        decoder_start_token_id=0,
        eos_token_id=4,
    )
    T5ForConditionalGeneration(config).save_pretrained(base_dir)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(BASE_DIR / name, base_dir / name)
    directories = Directories(ObstoreBlobs.open("memory://"), tmp_path / "cache")
    base = await directories.store(base_dir, {})
    model = ServedModel(BASE, LocalBase(base.manifest_digest))
    host = Host(LocalBackend(directories, threads=1), directories, model)

    texts = [await host.text(model) for _ in range(2)]
    score = await host.backend.score(model, ANSWERED)
    await host.backend.close()

    assert texts[0]
    assert texts[0] == texts[1]
    assert score.token_count > 3
    assert 0 < score.loss_sum < 100 * score.token_count


async def test_who_gives_up_while_a_base_loads_does_not_undo_the_loading(tmp_path: Path) -> None:
    directories = Directories(ObstoreBlobs.open("memory://"), tmp_path)
    base = await directories.store(BASE_DIR, {})
    host = Host(
        LocalBackend(directories, threads=1),
        directories,
        ServedModel(BASE, LocalBase(base.manifest_digest)),
    )
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(host.text(host.base), timeout=0.3)
    one, two = await asyncio.gather(host.text(host.base), host.text(host.base))
    workers = host.backend.workers
    await host.backend.close()

    assert one == two
    assert len(workers) == 1
    assert not workers[0].alive


async def test_a_start_that_is_cancelled_leaves_no_process() -> None:
    starting = asyncio.create_task(WorkerProcess.start(BASE_DIR, 1))
    while not (children := running_workers()):
        await asyncio.sleep(0.01)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting

    assert children
    assert not running_workers() & children


async def test_a_base_that_does_not_load_says_why(tmp_path: Path) -> None:
    with pytest.raises(WorkerStopped, match="no such file"):
        await WorkerProcess.start(tmp_path, 1)


async def test_a_worker_ends_when_its_router_is_gone() -> None:
    worker = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "services.inference.worker", str(BASE_DIR), "1"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert worker.stdin is not None
    assert worker.stdout is not None
    assert protocol.read_answer(await worker.stdout.readline()) == protocol.Ready()
    worker.stdin.close()

    assert await asyncio.wait_for(worker.wait(), timeout=20) == 0


def running_workers() -> set[int]:
    """This process's children that load BASE_DIR itself, which no backend's worker does."""
    found: set[int] = set()
    for child in psutil.Process().children():
        with suppress(psutil.Error):  # it ended while we looked
            if str(BASE_DIR) in child.cmdline():
                found.add(child.pid)
    return found
