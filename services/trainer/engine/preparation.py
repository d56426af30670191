"""What a run knows before it has a model: its device, its examples, their order and layout."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from services.trainer.engine.base_model import (
    check_base_model,
    is_encoder_decoder,
    position_limit,
)
from services.trainer.engine.batches import Layout, packed, padded, paired
from services.trainer.engine.determinism import prepare_arithmetic
from services.trainer.engine.errors import Fault, InvalidJob
from services.trainer.engine.examples import Encoder, Examples, encoder_for, load_examples
from services.trainer.engine.job import Job
from services.trainer.engine.plan import Plan


@dataclass(frozen=True, slots=True, eq=False)
class Preparation:
    """`precision` is that of float32 products, `max_tokens` what an example may have."""

    device: torch.device
    precision: str
    max_tokens: int
    encoder: Encoder
    examples: Examples
    plan: Plan
    total_steps: int


def prepare(job: Job) -> Preparation:
    """Raises InvalidJob and InvalidData."""
    precision = prepare_arithmetic(job.threads)
    check_base_model(job.base_model_dir)
    max_tokens = _max_tokens(job)
    encoder = encoder_for(job.dataset_file, job.base_model_dir)
    examples = load_examples(job.dataset_file, encoder, max_tokens, job.training, job.seed)
    lengths = tuple(map(len, examples.training))
    plan = Plan(
        lengths,
        job.seed,
        job.training.batch_size,
        job.training.batch_tokens,
        group_by_length=job.switches.group_by_length,
    )
    return Preparation(
        device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
        precision=precision,
        max_tokens=max_tokens,
        encoder=encoder,
        examples=examples,
        plan=plan,
        total_steps=plan.total_steps(job.training.max_steps, job.training.epochs),
    )


def layout(job: Job, config: Any) -> Layout:
    """How the job's examples are laid out for a base model of this config. Raises InvalidJob."""
    if not is_encoder_decoder(job.base_model_dir):
        return packed if job.training.packing else partial(padded, most=_max_tokens(job))
    if job.training.packing:
        raise InvalidJob(Fault("training.packing", "an encoder–decoder cannot be packed"))
    if config.decoder_start_token_id is None:
        raise InvalidJob(Fault("base_model_dir", "config.json names no decoder_start_token_id"))
    return paired(config.decoder_start_token_id, _max_tokens(job))


def _max_tokens(job: Job) -> int:
    asked, possible = job.training.max_sequence_tokens, position_limit(job.base_model_dir)
    return min(asked, possible or asked)
