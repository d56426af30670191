"""`python -m benchmarks.memory`: the peak memory of each method, measured and estimated.

Each method trains a few steps in a process of its own; its peak is what the kernel counted as
resident (VmHWM of proc(5)). The control plane estimates the same job in closed form, and the engine
simulates it.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.closed_form import cpu, proposal_of
from benchmarks.training.conversations import LONGEST
from benchmarks.training.observation import ROOT
from benchmarks.training.sizes import SIZES, Size
from benchmarks.training.workload import Workload, write_workload
from services.trainer.control.domain.estimation.footprint import peak_memory
from services.trainer.control.domain.estimation.reading import Examples
from services.trainer.engine.fast.hardware import multiplies_bfloat16

DIRECTORY = ROOT / "build" / "bench-memory"
METHODS: Mapping[str, Mapping[str, Any]] = {
    "full": {"kind": "full"},
    "lora": {"kind": "lora"},
    "qlora": {"kind": "qlora"},
    "qlora 8 bits": {"kind": "qlora", "bits": 8},
    "prefix": {"kind": "prefix"},
    "adapter": {"kind": "adapter"},
}
PARTS = ("weights", "trainable", "optimizer", "activations", "runtime")
_MB = 1e6


@dataclass(frozen=True, slots=True)
class Row:
    """Peaks in bytes."""

    name: str
    measured: int
    simulated: Mapping[str, int]
    closed_form: int

    @property
    def error(self) -> float:
        return self.simulated["total_bytes"] / self.measured - 1

    @property
    def closed_form_error(self) -> float:
        return self.closed_form / self.measured - 1


def main() -> int:
    options = _options()
    size = SIZES[options.size]
    workload = write_workload(options.directory / "workload", [size], options.examples)
    print(_heading())
    worst = worst_closed_form = 0.0
    for name in options.methods:
        job_file = write_job(workload, size, name, options)
        closed_form = _closed_form(job_file, workload)
        row = Row(name, _measured(job_file), _simulated(job_file), closed_form)
        print(_line(row), flush=True)
        worst = max(worst, abs(row.error))
        worst_closed_form = max(worst_closed_form, abs(row.closed_form_error))
    print(f"\nlargest error of the simulation: {worst:.1%}")
    print(f"largest error of the closed form: {worst_closed_form:.1%}")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="14m")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--examples", type=int, default=400)
    parser.add_argument("--tokens", type=int, default=0, help="of a batch; 0: the size's own")
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.add_argument("--packing", action="store_true")
    parser.add_argument("--checkpointing", choices=["on", "off"], default="off")
    parser.add_argument("--directory", type=Path, default=DIRECTORY, help="for what runs leave")
    return parser.parse_args()


def write_job(workload: Workload, size: Size, name: str, options: argparse.Namespace) -> Path:
    work_dir = workload.directory.parent / "run"
    shutil.rmtree(work_dir, ignore_errors=True)
    work_dir.mkdir(parents=True)
    job = {
        "job": "bench-memory",
        "seed": 1,
        "base_model_dir": str(workload.base_model(size)),
        "dataset_file": str(workload.dataset_file),
        "work_dir": str(work_dir),
        "resume_from": None,
        "threads": 1,
        "method": METHODS[name],
        "training": {
            "max_steps": options.steps,
            "epochs": 0.0,
            "batch_size": size.examples_a_step,
            "batch_tokens": options.tokens or size.tokens_a_step,
            "learning_rate": 1e-3,
            "warmup_steps": 0,
            "schedule": "constant",
            "weight_decay": 0.0,
            "max_grad_norm": 1.0,
            "max_sequence_tokens": LONGEST,
            "validation_fraction": 0.05,
            "evaluate_every": 4,
            "checkpoint_every": 4,
            "precision": options.precision,
            "packing": options.packing,
            "gradient_checkpointing": options.checkpointing,
            "sample_count": 1,
            "sample_max_tokens": 8,
        },
    }
    path = work_dir / "job.json"
    path.write_text(json.dumps(job, indent=2), encoding="utf-8")
    return path


def _measured(job_file: Path) -> int:
    last = json.loads(_engine(str(job_file)).splitlines()[-1])
    return last["peak_memory_bytes"]


def _simulated(job_file: Path) -> Mapping[str, int]:
    return json.loads(_engine("--estimate", str(job_file)))["peak_memory"]


def _closed_form(job_file: Path, workload: Workload) -> int:
    """What the control plane says, which knows the number of examples and their mean length."""
    examples = Examples(workload.examples, workload.tokens / workload.examples)
    fast = multiplies_bfloat16(torch.device("cpu"))
    device = cpu(2.0, 1.0) if fast else cpu(1.0, 2.0)
    return peak_memory(proposal_of(job_file, examples, device)).total_bytes


def _engine(*arguments: str) -> str:
    command = [sys.executable, "-m", "services.trainer.engine", *arguments]
    ran = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if ran.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with {ran.returncode}: {ran.stdout[-500:]}")
    return ran.stdout


def _heading() -> str:
    titles = ("method", "measured", "closed form", "error", "simulated", "error", *PARTS)
    return f"| {' | '.join(titles)} |\n| {' | '.join(['---'] + ['--:'] * (len(titles) - 1))} |"


def _line(row: Row) -> str:
    """In megabytes (10⁶ bytes)."""
    parts = [f"{row.simulated[f'{part}_bytes'] / _MB:.0f}" for part in PARTS]
    total = row.simulated["total_bytes"] / _MB
    closed_form = f"{row.closed_form / _MB:.0f}", f"{row.closed_form_error:+.1%}"
    simulated = f"{total:.0f}", f"{row.error:+.1%}"
    cells = [row.name, f"{row.measured / _MB:.0f}", *closed_form, *simulated, *parts]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
