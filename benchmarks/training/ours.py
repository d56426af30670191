"""Our engine, run as a node runs it: by a job file."""

import json
import sys
from pathlib import Path

from benchmarks.training.conversations import LONGEST
from benchmarks.training.encoded import EncodedExample, read_encoded
from benchmarks.training.sizes import LORA_ALPHA, LORA_RANK, Size
from benchmarks.training.workload import Workload
from services.trainer.engine.process import quiet_libraries

PRECISIONS = {"anneal": "bfloat16", "anneal_fp32": "float32"}
"""What our variants multiply in."""


def write_job(
    workload: Workload,
    size: Size,
    variant: str,
    work_dir: Path,
    *,
    cores: int,
    learning_rate: float,
    seed: int,
) -> Path:
    """Writes a job that trains until it is stopped; on each core a process of one thread."""
    work_dir.mkdir(parents=True, exist_ok=True)
    job = {
        "job": f"bench-{variant}",
        "seed": seed,
        "base_model_dir": str(workload.base_model(size)),
        "dataset_file": str(workload.dataset_file),
        "work_dir": str(work_dir),
        "resume_from": None,
        "threads": 1,
        "processes": cores,
        "method": {
            "kind": "lora",
            "rank": LORA_RANK,
            "alpha": float(LORA_ALPHA),
            "dropout": 0.0,
            "target_modules": [],
            "rslora": False,
            "dora": False,
        },
        "training": {
            "max_steps": 1_000_000,
            "epochs": 0.0,
            "batch_size": size.examples_a_step,
            "learning_rate": learning_rate,
            "warmup_steps": 0,
            "schedule": "constant",
            "weight_decay": 0.0,
            "max_grad_norm": 1.0,
            "max_sequence_tokens": LONGEST,
            "validation_fraction": 0.0,
            "evaluate_every": 0,
            "checkpoint_every": 0,
            "precision": PRECISIONS[variant],
            "long_examples": "refuse",
        },
    }
    path = work_dir / "job.json"
    path.write_text(json.dumps(job, indent=2), encoding="utf-8")
    return path


def engine_command(job_file: Path) -> list[str]:
    return [sys.executable, "-m", "services.trainer.engine", str(job_file)]


def check_engine_reads_the_same(workload: Workload, job_file: Path) -> None:
    """Raises ValueError if the engine would train on other tokens or labels than the others."""
    quiet_libraries()

    from services.trainer.engine.examples import load_encoder, load_examples  # brings torch
    from services.trainer.engine.job import read_job

    job = read_job(job_file)
    examples = load_examples(
        job.dataset_file,
        load_encoder(job.base_model_dir),
        job.training.max_sequence_tokens,
        job.training,
        job.seed,
    )
    ours = [EncodedExample.of(example.token_ids, example.labeled) for example in examples.training]
    if ours != read_encoded(workload.encoded_file):
        raise ValueError("the engine reads other tokens or labels than the others are given")
