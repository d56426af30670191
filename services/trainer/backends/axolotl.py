"""Axolotl: its configuration file, and how it is started.

The options are those of axolotl 0.18 (src/axolotl/utils/schemas); rows that are tokens already are
its "Custom Pre-Tokenized Dataset".
"""

import math
from collections.abc import Sequence

import yaml

from services.trainer.backends.inside import INSIDE
from services.trainer.backends.recipe import Recipe
from services.trainer.engine.job import Job
from services.trainer.engine.methods import Lora, Qlora
from services.trainer.engine.methods.lora import as_written

_SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}

_NO_KERNELS = {"lora_mlp_kernel": False, "lora_qkv_kernel": False, "lora_o_kernel": False}
"""Left to itself it takes its kernels for a GPU on a CPU too, and fails in the first step."""

ENVIRONMENT = {"AXOLOTL_DO_NOT_TRACK": "1", "DO_NOT_TRACK": "1"}
"""It would tell its makers of the run, and wait ten seconds for an objection."""


def command(python: str, job: Job, recipe: Recipe) -> Sequence[str]:
    """Writes the configuration; returns the program that trains by it."""
    path = recipe.directory / "axolotl.yaml"
    path.write_text(yaml.safe_dump(settings(job, recipe), sort_keys=False))
    return (python, str(INSIDE / "anneal_axolotl.py"), str(path))


def settings(job: Job, recipe: Recipe) -> dict[str, object]:
    """The configuration for a job that `limits.check` has let through."""
    training = job.training
    return {
        "base_model": str(job.base_model_dir),
        "trust_remote_code": False,
        **_adapter(job, recipe),
        "plugins": ["anneal_axolotl_plugin.Reporting"],
        **_data(recipe),
        "output_dir": str(recipe.output_dir),
        "max_steps": recipe.total_steps,
        "num_epochs": math.ceil(recipe.epochs),
        "micro_batch_size": recipe.micro_batch,
        "gradient_accumulation_steps": recipe.accumulation,
        "optimizer": "adamw_torch",
        "learning_rate": training.learning_rate,
        "lr_scheduler": _SCHEDULES[training.schedule],
        "warmup_steps": training.warmup_steps,
        "weight_decay": training.weight_decay,
        "max_grad_norm": recipe.max_gradient_norm,
        "seed": recipe.seed,
        **_precision(training.precision),
        "gradient_checkpointing": recipe.recompute,
        "logging_steps": 1,
        "save_strategy": "no",
        "include_tkps": False,
    }


def _data(recipe: Recipe) -> dict[str, object]:
    """Held-out rows are not among them: the reports read those themselves."""
    return {
        "datasets": [{"path": str(recipe.rows_file), "ds_type": "json", "type": None}],
        "dataset_prepared_path": str(recipe.directory / "prepared"),
        "val_set_size": 0,
        "sequence_len": recipe.max_tokens,
        "excess_length_strategy": "raise",
        "sample_packing": False,
        "pad_to_sequence_len": False,
        "dataloader_num_workers": 0,
        "dataloader_drop_last": False,
    }


def _adapter(job: Job, recipe: Recipe) -> dict[str, object]:
    match job.method:
        case Lora(rslora=rslora, dora=dora) as method:
            more: dict[str, object] = {"adapter": "lora", "peft_use_dora": dora}
        case Qlora(rslora=rslora, bits=8) as method:
            more = {"adapter": "lora", "load_in_8bit": True}
        case Qlora(rslora=rslora, double_quantization=double) as method:
            more = {
                "adapter": "qlora",
                "load_in_4bit": True,
                "bnb_config_kwargs": {"bnb_4bit_use_double_quant": double},
            }
        case _:
            return {}
    return {
        **more,
        "lora_r": method.rank,
        "lora_alpha": as_written(method.alpha),
        "lora_dropout": method.dropout,
        "lora_target_modules": list(recipe.targets),
        "lora_fan_in_fan_out": recipe.stores_transposed,
        "peft_use_rslora": rslora,
        **({} if recipe.on_gpu else _NO_KERNELS),
    }


def _precision(asked: str) -> dict[str, object]:
    """Without `fp16: false` a host that has no bfloat16 would get float16, and with it losses that
    overflow."""
    match asked:
        case "float32":
            return {"bf16": False, "fp16": False, "tf32": False}
        case "bfloat16":
            return {"bf16": True, "fp16": False}
        case _:
            return {"bf16": "auto", "fp16": False}
