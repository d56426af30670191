"""Unsloth: it has no command of its own, so a driver of ours inside its interpreter calls it.

What the driver hands on are parameters of `FastLanguageModel` and of transformers'
`TrainingArguments`; the names are unsloth's of August 2026.
"""

import json
from collections.abc import Sequence

from services.trainer.backends.inside import INSIDE
from services.trainer.backends.recipe import Recipe
from services.trainer.engine.job import Job
from services.trainer.engine.methods import Full, Lora, Qlora
from services.trainer.engine.methods.lora import as_written

_SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}

ENVIRONMENT = {"UNSLOTH_DISABLE_STATISTICS": "1"}
"""It would count the run on a hub."""


def command(python: str, job: Job, recipe: Recipe) -> Sequence[str]:
    """Writes the settings; returns the program that trains by them."""
    path = recipe.directory / "unsloth.json"
    path.write_text(json.dumps(settings(job, recipe), indent=2))
    return (python, str(INSIDE / "anneal_unsloth.py"), str(path))


def settings(job: Job, recipe: Recipe) -> dict[str, object]:
    """What the driver reads, for a job that `limits.check` has let through."""
    return {
        "rows_file": str(recipe.rows_file),
        "output_dir": str(recipe.output_dir),
        "precision": job.training.precision,
        "model": _model(job, recipe),
        "adapter": _adapter(job, recipe),
        "arguments": _arguments(job, recipe),
    }


def _model(job: Job, recipe: Recipe) -> dict[str, object]:
    """Of `FastLanguageModel.from_pretrained`. An exact name is no name that unsloth may replace by
    that of a base model of its own."""
    method = job.method
    return {
        "model_name": str(job.base_model_dir),
        "max_seq_length": recipe.max_tokens,
        "load_in_4bit": isinstance(method, Qlora) and method.bits == 4,
        "load_in_8bit": isinstance(method, Qlora) and method.bits == 8,
        "full_finetuning": isinstance(method, Full),
        "use_gradient_checkpointing": _checkpointing(recipe),
        "use_exact_model_name": True,
        "random_state": recipe.seed,
        "trust_remote_code": False,
    }


def _adapter(job: Job, recipe: Recipe) -> dict[str, object] | None:
    """Of `FastLanguageModel.get_peft_model`."""
    method = job.method
    if not isinstance(method, Lora | Qlora):
        return None
    return {
        "r": method.rank,
        "lora_alpha": as_written(method.alpha),
        "lora_dropout": method.dropout,
        "target_modules": list(recipe.targets),
        "use_rslora": method.rslora,
        "bias": "none",
        "use_gradient_checkpointing": _checkpointing(recipe),
        "random_state": recipe.seed,
    }


def _arguments(job: Job, recipe: Recipe) -> dict[str, object]:
    """Of `TrainingArguments`; the driver adds what only it can know."""
    training = job.training
    return {
        "output_dir": str(recipe.directory / "trainer"),
        "max_steps": recipe.total_steps,
        "per_device_train_batch_size": recipe.micro_batch,
        "gradient_accumulation_steps": recipe.accumulation,
        "optim": "adamw_torch",
        "learning_rate": training.learning_rate,
        "lr_scheduler_type": _SCHEDULES[training.schedule],
        "warmup_steps": training.warmup_steps,
        "weight_decay": training.weight_decay,
        "max_grad_norm": recipe.max_gradient_norm,
        "seed": recipe.seed,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def _checkpointing(recipe: Recipe) -> str | bool:
    return "unsloth" if recipe.recompute else False
