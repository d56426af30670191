"""The memory of a process that trains, tensors apart: measured by training something tiny.

Interpreter and libraries are most of it for a small model. Libraries load parts of themselves at
the first backward pass, the first update, the first answer, so all of that is done once, with the
job's own method and settings, on two blocks of random weights.
"""

import gc
from array import array
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers

from services.trainer.engine.artifacts import write_artifacts
from services.trainer.engine.base_model import is_encoder_decoder
from services.trainer.engine.checkpoint import Environment, Identity, Progress, save_checkpoint
from services.trainer.engine.evaluation import evaluate
from services.trainer.engine.events import NoEvents
from services.trainer.engine.examples import Example, Examples
from services.trainer.engine.footprint import resident_bytes
from services.trainer.engine.job import Job
from services.trainer.engine.loader import Loader
from services.trainer.engine.loop import held_out_batches
from services.trainer.engine.methods import Lora, Qlora, TuningMethod
from services.trainer.engine.model import TunableModel, load_tunable_model
from services.trainer.engine.optimizer import Optimizer
from services.trainer.engine.plan import Plan
from services.trainer.engine.precision import compute_dtype
from services.trainer.engine.preparation import Preparation, layout
from services.trainer.engine.process import StopRequest
from services.trainer.engine.samples import answers
from services.trainer.engine.state import Run
from services.trainer.engine.step import take_step
from services.trainer.engine.team import Team

_transformers: Any = transformers  # untyped package

_WIDTH, _VOCABULARY = 64, 256
_LENGTHS = (16, 40, 40, 72)
"""Tokens of the examples."""
_STEPS = 2


@dataclass(frozen=True, slots=True)
class Runtime:
    """Bytes that a process holds besides tensors when it has loaded its model, and when it has come
    to know all parts of a run."""

    loaded_bytes: int
    warm_bytes: int


def rehearse(job: Job, ready: Preparation) -> Runtime:
    """What a process holds which has prepared this job: on a GPU there, on a CPU in all."""
    with TemporaryDirectory() as directory:
        base_model_dir, work_dir = Path(directory) / "base", Path(directory) / "work"
        _write_tiny_model(base_model_dir, is_encoder_decoder(job.base_model_dir))
        small = replace(
            job,
            base_model_dir=base_model_dir,
            work_dir=work_dir,
            start_from=None,
            method=_for_any_model(job.method),
        )
        loaded_bytes = _run(small, ready)
    return Runtime(loaded_bytes, _held_bytes(ready.device))


def make_run(job: Job, ready: Preparation, model: TunableModel) -> Run:
    """A run that nobody hears of and nothing goes on from."""
    return Run(
        job=job,
        examples=ready.examples,
        encoder=ready.encoder,
        layout=layout(job, model.network.config),
        plan=ready.plan,
        total_steps=ready.total_steps,
        model=model,
        optimizer=Optimizer(model.trainable, job.training, fused=job.switches.fused_adamw),
        identity=Identity(settings="", dataset="", plan="", base_model=""),
        environment=_NOWHERE,
        team=Team(),
        events=NoEvents(),
        stop=StopRequest(),
        clock=lambda: 0.0,
    )


_NOWHERE = Environment(
    torch="",
    transformers="",
    peft="",
    device="",
    threads=1,
    processes=1,
    matmul_precision="",
    compute_dtype="",
    gains=(),
)


def _held_bytes(device: torch.device) -> int:
    gc.collect()
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return resident_bytes()


def _run(job: Job, ready: Preparation) -> int:
    """Returns what was held before the first step."""
    examples = _examples(is_encoder_decoder(job.base_model_dir))
    plan = Plan(tuple(map(len, examples.training)), job.seed, len(_LENGTHS))
    small = replace(ready, examples=examples, plan=plan, total_steps=_STEPS)
    model = load_tunable_model(job, compute_dtype(job, ready.device), ready.device)
    loaded_bytes = _held_bytes(ready.device)
    run = make_run(job, small, model)
    progress = Progress()
    model.network.train()
    with Loader(examples.training, plan, run.layout, model.device, run.team) as loader:
        for _ in range(_STEPS):
            _, progress = take_step(run, loader, progress, job.training.learning_rate)
    if ready.examples.validation:
        evaluate(model, held_out_batches(run, progress), run.team)
        if job.training.sample_count:
            answers(model, examples.validation[:1], ready.encoder, max_tokens=2)
    save_checkpoint(
        job.checkpoints_dir,
        progress,
        run.identity,
        run.environment,
        model.trainable_tensors(),
        run.optimizer.state(),
        None,
    )
    write_artifacts(job, model)
    return loaded_bytes


def _for_any_model(method: TuningMethod) -> TuningMethod:
    """Without names of layers, which the tiny model may not have."""
    return replace(method, target_modules=()) if isinstance(method, Lora | Qlora) else method


def _examples(encoder_decoder: bool) -> Examples:
    made = tuple(_example(length, encoder_decoder) for length in _LENGTHS)
    return Examples(made, made[:1], skipped=0, truncated=0, dropped=0, digest="")


def _example(length: int, encoder_decoder: bool) -> Example:
    ids = array("i", range(length))
    labeled = bytes(length // 2) + bytes([1]) * (length - length // 2)
    return Example(ids, labeled, ids if encoder_decoder else array("i"))


def _write_tiny_model(directory: Path, encoder_decoder: bool) -> None:
    if encoder_decoder:
        config = _transformers.T5Config(
            vocab_size=_VOCABULARY,
            d_model=_WIDTH,
            d_kv=_WIDTH // 2,
            d_ff=2 * _WIDTH,
            num_layers=2,
            num_heads=2,
            decoder_start_token_id=0,
        )
        model = _transformers.T5ForConditionalGeneration(config)
    else:
        config = _transformers.LlamaConfig(
            vocab_size=_VOCABULARY,
            hidden_size=_WIDTH,
            intermediate_size=2 * _WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
        )
        model = _transformers.LlamaForCausalLM(config)
    model.save_pretrained(directory)
