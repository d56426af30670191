"""`python -m benchmarks.methods`: the five methods on tiny-base and the support examples.

For each: trainable parameters, peak memory, speed and held-out loss of the engine; and the loss of
the same recipe in plain transformers and PEFT, in float32, which must be equal.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

_arrow: Any = pa  # untyped packages
_parquet: Any = pq

ROOT = Path(__file__).resolve().parent.parent
BASE = ROOT / "examples" / "tiny-base"
EXAMPLES = ROOT / "examples" / "support.jsonl"
STEPS = 200
METHODS: dict[str, tuple[float, dict[str, object]]] = {
    "full": (3e-4, {}),
    "lora": (2e-3, {"rank": 8, "alpha": 16.0, "dropout": 0.0, "target_modules": []}),
    "qlora": (2e-3, {"rank": 8, "alpha": 16.0, "dropout": 0.0, "target_modules": []}),
    "prefix": (3e-1, {"prefix_length": 20}),
    "adapter": (5e-3, {"adapter_size": 64}),
}
"""The learning rate and the settings of each."""

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Outcome:
    """`peak_mib` is the process's largest resident set, libraries included; `loss` that of the
    held-out examples, `losses` those of the steps."""

    trainable: int
    total: int
    loss: float
    tokens_per_second: float
    peak_mib: float
    losses: tuple[float, ...]

    @property
    def steps(self) -> int:
        return len(self.losses)


def main() -> None:
    table = Table("method", "trainable", "share", "peak MiB", "tokens/s", "held-out loss")
    for column in ("to full's", "float32 loss", "plain loss", "difference", "× plain's speed"):
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory() as directory:
        dataset = write_dataset(Path(directory))
        of_full = 0.0
        for method in METHODS:
            fast = run_engine(_job(Path(directory), dataset, method, "auto"))
            exact_job = _job(Path(directory), dataset, method, "float32")
            exact = run_engine(exact_job)
            plain = run_plain(exact_job)
            of_full = of_full or fast.loss
            difference = exact.loss / plain["validation_loss"] - 1
            table.add_row(
                method,
                f"{fast.trainable:,}",
                f"{fast.trainable / fast.total:.2%}",
                f"{fast.peak_mib:,.0f}",
                f"{fast.tokens_per_second:,.0f}",
                f"{fast.loss:.4f}",
                f"{fast.loss / of_full:.2f}",
                f"{exact.loss:.4f}",
                f"{plain['validation_loss']:.4f}",
                f"{difference:+.2%}",
                f"{fast.tokens_per_second / plain['tokens_per_second']:.1f}",
            )
    Console(width=160).print(table)


def write_dataset(directory: Path) -> Path:
    rows = [json.loads(line)["messages"] for line in EXAMPLES.read_text().splitlines()]
    for message in (message for row in rows for message in row):
        message["train"] = message["role"] == "assistant"
    kind = _arrow.struct(
        [("role", _arrow.string()), ("content", _arrow.string()), ("train", _arrow.bool_())]
    )
    path = directory / "support.parquet"
    table = _arrow.table({"messages": _arrow.array(rows, _arrow.list_(kind))})
    _parquet.write_table(table, path)
    return path


def _job(directory: Path, dataset: Path, method: str, precision: str) -> Path:
    rate, settings = METHODS[method]
    work_dir = directory / f"{method}-{precision}"
    work_dir.mkdir()
    job = {
        "job": method,
        "seed": 7,
        "base_model_dir": str(BASE),
        "dataset_file": str(dataset),
        "work_dir": str(work_dir),
        "resume_from": None,
        "threads": 1,
        "method": {"kind": method, **settings},
        "training": {
            "max_steps": STEPS,
            "epochs": 0.0,
            "batch_size": 16,
            "learning_rate": rate,
            "warmup_steps": 20,
            "schedule": "cosine",
            "weight_decay": 0.0,
            "max_grad_norm": 1.0,
            "max_sequence_tokens": 128,
            "validation_fraction": 0.1,
            "evaluate_every": 0,
            "checkpoint_every": 0,
            "precision": precision,
            "sample_count": 0,
        },
    }
    path = work_dir / "job.json"
    path.write_text(json.dumps(job))
    return path


def run_engine(job_file: Path) -> Outcome:
    command = [sys.executable, "-m", "services.trainer.engine", str(job_file)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as engine:
        assert engine.stdout is not None
        events: list[dict[str, Any]] = [json.loads(line) for line in engine.stdout]
        _, status, usage = os.wait4(engine.pid, 0)
        engine.returncode = os.waitstatus_to_exitcode(status)
    if engine.returncode != 0:
        raise RuntimeError(f"the engine ended with {engine.returncode}: {events[-1:]}")
    started, finished = events[0], events[-1]
    return Outcome(
        trainable=started["trainable_parameters"],
        total=started["total_parameters"],
        loss=finished["validation_loss"],
        tokens_per_second=statistics.median(_speeds(events)),
        peak_mib=usage.ru_maxrss * 1024 / _MIB,
        losses=tuple(event["loss"] for event in events if event["type"] == "step"),
    )


def _speeds(events: list[dict[str, Any]]) -> Iterator[float]:
    return (event["tokens_per_second"] for event in events if event["type"] == "step")


def run_plain(job_file: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.plain_recipe", str(job_file)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


if __name__ == "__main__":
    main()
