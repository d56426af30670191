"""The engine, killed at any step of any method, comes to the bytes of an undisturbed run."""

import json
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.engines import engine
from tests.unit.engine.families import save_base_model

pytestmark = pytest.mark.fault("R2")

TINY_BASE = Path(__file__).parents[2] / "examples" / "tiny-base"
STEPS = 104
CHECKPOINT_EVERY = 3
METHODS: dict[str, dict[str, Any]] = {
    "full": {},
    "lora": {"rank": 4, "alpha": 8.0, "dropout": 0.1, "target_modules": []},
    "qlora": {"rank": 4, "alpha": 8.0, "dropout": 0.1, "target_modules": [], "bits": 4},
    "prefix": {"prefix_length": 8},
    "adapter": {"adapter_size": 8, "placement": "houlsby"},
}


@pytest.fixture(scope="module")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with tiny-base's tokenizer, of which it uses the first tokens alone."""
    directory = tmp_path_factory.mktemp("base")
    save_base_model("llama", directory, TINY_BASE, vocabulary=3072)
    return directory


def _counting(count: int, word: str) -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": f"Count {' '.join(word * count)}", "train": False},
        {"role": "assistant", "content": f"There are {count}.", "train": True},
    ]


@pytest.fixture
def job_file(base_model: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes the job file of a method, in a directory of its own."""
    rows = [_counting(i % 9, "ab"[: i % 2 + 1]) for i in range(60)]
    message = pa.struct([("role", pa.string()), ("content", pa.string()), ("train", pa.bool_())])
    dataset = tmp_path / "dataset.parquet"
    pq.write_table(pa.table({"messages": pa.array(rows, pa.list_(message))}), dataset)

    def write(name: str, method: str, resume_from: Path | None = None) -> Path:
        directory = tmp_path / name
        directory.mkdir(exist_ok=True)
        training = {
            "max_steps": STEPS,
            "epochs": 0.0,
            "batch_size": 4,
            "learning_rate": 0.01,
            "warmup_steps": 2,
            "schedule": "cosine",
            "weight_decay": 0.01,
            "max_grad_norm": 1.0,
            "max_sequence_tokens": 128,
            "validation_fraction": 0.1,
            "evaluate_every": 10,
            "checkpoint_every": CHECKPOINT_EVERY,
            "early_stopping_patience": 100,
        }
        job = {
            "job": name,
            "seed": 7,
            "base_model_dir": str(base_model),
            "dataset_file": str(dataset),
            "work_dir": str(directory),
            "resume_from": None if resume_from is None else str(resume_from),
            "method": {"kind": method, **METHODS[method]},
            "training": training,
            "threads": 1,
        }
        path = directory / "job.json"
        path.write_text(json.dumps(job))
        return path

    return write


def events(job_file: Path, kill_at: int | None = None) -> Iterator[dict[str, Any]]:
    """Runs the engine; kills it when it tells of step `kill_at`."""
    with engine(job_file) as running:
        for line in running.output:
            event = json.loads(line)
            yield event
            if event["type"] == "step" and event["step"] == kill_at:
                running.process.kill()
        assert running.exit_code() == (0 if kill_at is None else -signal.SIGKILL)


def result(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (directory / "artifacts").iterdir()}


def newest_checkpoint(directory: Path) -> Path | None:
    return max((directory / "checkpoints").glob("step-*"), default=None)


def check(method: str, kills: int, job_file: Callable[..., Path]) -> None:
    whole = job_file("whole", method).parent
    undisturbed = [e for e in events(whole / "job.json") if e["type"] == "step"]
    loss_of = {event["step"]: event["loss"] for event in undisturbed}
    assert [*loss_of] == list(range(1, STEPS + 1))

    directory = job_file("killed", method).parent
    chosen = sorted(random.Random(method).sample(range(2, STEPS), kills))
    done = 0
    for kill_at in [*chosen, None]:
        path = job_file("killed", method, newest_checkpoint(directory))
        for event in events(path, kill_at):
            if event["type"] == "resumed":
                assert event["exact"]
                assert done - event["step"] <= CHECKPOINT_EVERY
            if event["type"] == "step":
                assert event["loss"] == loss_of[event["step"]]
                done = event["step"]
    assert result(directory) == result(whole)
    shutil.rmtree(directory)


def test_two_kills_change_no_byte(job_file: Callable[..., Path]) -> None:
    check("full", 2, job_file)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("method", METHODS)
def test_a_kill_at_each_step_changes_no_byte(method: str, job_file: Callable[..., Path]) -> None:
    check(method, len(range(2, STEPS)), job_file)
