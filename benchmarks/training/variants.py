"""The sides, and the command line of each."""

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.training.ours import engine_command, write_job
from benchmarks.training.sizes import Size
from benchmarks.training.workload import Workload

LEARNING_RATE = 1e-3
# Trainer's group_by_length sorts windows of this many batches, longest first; so few batches of
# random lengths are no fair sample either.
CYCLE_STEPS = 50


@dataclass(frozen=True, slots=True)
class Variant:
    name: str
    description: str
    is_ours: bool = False


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("anneal", "our engine, bf16", is_ours=True),
        Variant("anneal_fp32", "our engine, fp32", is_ours=True),
        Variant("hf", "Trainer and PEFT as they come, fp32"),
        Variant("hf_tuned", "Trainer, bf16, batches of like length, eager attention"),
        Variant("trl_default", "SFTTrainer as it comes: bf16, gradient checkpointing"),
        Variant("trl_packed", "SFTTrainer, bf16, packed, no gradient checkpointing"),
        Variant(
            "trl_best",
            "SFTTrainer, bf16, batches of like length, eager attention, no gradient checkpointing",
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Setting:
    """What all sides have in common. `directory` is for what a run leaves behind."""

    workload: Workload
    size: Size
    threads: int
    peers_python: Path
    directory: Path


def in_turn(variants: Sequence[Variant], number: int) -> list[Variant]:
    """The order of round `number`: A B C, then C B A, and so on."""
    return list(reversed(variants)) if number % 2 else list(variants)


def command(variant: Variant, setting: Setting, seed: int) -> list[str]:
    """Starts training that goes on until the process is ended. Writes a job file for ours."""
    if variant.is_ours:
        return engine_command(job_file(variant, setting, seed))
    return [
        str(setting.peers_python),
        "-m",
        "benchmarks.training.peers",
        variant.name,
        setting.size.name,
        str(setting.workload.base_model(setting.size)),
        str(setting.workload.encoded_file),
        f"--threads={setting.threads}",
        f"--learning-rate={LEARNING_RATE}",
        f"--seed={seed}",
    ]


def job_file(variant: Variant, setting: Setting, seed: int) -> Path:
    """Written into a new directory: a run is not to find what an earlier one left."""
    work_dir = setting.directory / variant.name
    shutil.rmtree(work_dir, ignore_errors=True)
    return write_job(
        setting.workload,
        setting.size,
        variant.name,
        work_dir,
        cores=setting.threads,
        learning_rate=LEARNING_RATE,
        seed=seed,
    )


def environment(threads: int) -> Mapping[str, str]:
    """So many threads, and no network; our engine sets its own."""
    return {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }


def gemm_command() -> list[str]:
    return [sys.executable, "-m", "benchmarks.training.gemm"]
