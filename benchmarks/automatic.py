"""`python -m benchmarks.automatic`: the values of `auto` beside the fixed defaults.

Each method trains tiny-base on the support examples twice: as a job does that says nothing, and as
one with `auto`. The held-out examples are the same.
"""

import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.methods import BASE, EXAMPLES, run_engine, write_dataset
from services.registry.adapters.architectures import read_architecture
from services.trainer.control.domain import automatic
from services.trainer.control.domain.estimation.architecture import (
    Architecture,
    checked_architecture,
)
from services.trainer.control.domain.estimation.reading import Examples, guessed_mean_tokens
from services.trainer.control.domain.methods import METHODS
from services.trainer.control.domain.settings import checked_settings

_CHOSEN = (
    "learning_rate",
    "epochs",
    "batch_size",
    "micro_batch_tokens",
    "warmup_steps",
    "max_sequence_tokens",
    "validation_fraction",
    "evaluate_every",
    "early_stopping_patience",
)
_SHOWN = ("learning_rate", "epochs", "batch_size")
_FIXED: Mapping[str, Any] = {
    "max_steps": 0,
    "schedule": "cosine",
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "checkpoint_every": 0,
    "sample_count": 0,
}


def main() -> None:
    """Takes the methods to train; without any, all."""
    kinds = sys.argv[1:] or [method().kind for method in METHODS]
    table = Table("method", "values", *_SHOWN, "steps", "held-out loss")
    with tempfile.TemporaryDirectory() as directory:
        dataset = write_dataset(Path(directory))
        for kind in kinds:
            for auto in (False, True):
                training = _training(kind, dataset, auto=auto)
                word = "auto" if auto else "default"
                job = _job(Path(directory) / f"{kind}-{word}", dataset, kind, training)
                outcome = run_engine(job)
                shown = (f"{training[field]:g}" for field in _SHOWN)
                table.add_row(kind, word, *shown, str(outcome.steps), f"{outcome.loss:.4f}")
    Console(width=100).print(table)


def _training(kind: str, dataset: Path, *, auto: bool) -> Mapping[str, Any]:
    settings = checked_settings({"method": {"kind": kind}, "training": {"auto": auto}})
    count = len(EXAMPLES.read_text().splitlines())
    mean_tokens = guessed_mean_tokens(dataset.stat().st_size, count)
    resolved = automatic.resolved(settings, _architecture(), Examples(count, mean_tokens))
    return {field: getattr(resolved.training, field) for field in _CHOSEN}


def _job(work_dir: Path, dataset: Path, kind: str, training: Mapping[str, Any]) -> Path:
    work_dir.mkdir()
    job = {
        "job": kind,
        "seed": 7,
        "base_model_dir": str(BASE),
        "dataset_file": str(dataset),
        "work_dir": str(work_dir),
        "resume_from": None,
        "threads": 1,
        "method": {"kind": kind},
        "training": {**_FIXED, **training},
    }
    path = work_dir / "job.json"
    path.write_text(json.dumps(job))
    return path


def _architecture() -> Architecture:
    found = read_architecture(BASE)
    assert found is not None
    return checked_architecture(asdict(found))


if __name__ == "__main__":
    main()
