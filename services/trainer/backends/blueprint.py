"""What the result of a job has to be: its files, names and shapes, known before it is trained."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import nn

from services.trainer.engine import adapter_files
from services.trainer.engine.errors import Fault, InvalidJob
from services.trainer.engine.job import Job
from services.trainer.engine.layers import stores_transposed
from services.trainer.engine.methods import Full

_transformers: Any = transformers  # its auto classes are not typed

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Blueprint:
    """`tensors` are those to be saved. An adapter has `adapter_config`, the engine's own
    adapter_config.json, and `targets`, the last name parts of the layers that it is beside."""

    tensors: Shapes
    adapter_config: str | None
    targets: tuple[str, ...]
    stores_transposed: bool


def blueprint_of(job: Job) -> Blueprint:
    """Builds the job's model without its weights. Raises InvalidJob if it cannot be built."""
    try:
        config = _transformers.AutoConfig.from_pretrained(
            job.base_model_dir, local_files_only=True, trust_remote_code=False
        )
        with torch.device("meta"):
            base: nn.Module = _transformers.AutoModelForCausalLM.from_config(
                config, trust_remote_code=False
            )
    except (OSError, ValueError) as error:
        raise InvalidJob(Fault("base_model_dir", f"cannot be loaded: {error}")) from error
    transposed = stores_transposed(base)
    with torch.device("meta"):
        network: Any = job.method.attach(base)
    if isinstance(job.method, Full):
        shapes = {name: tuple(p.shape) for name, p in network.named_parameters()}
        return Blueprint(shapes, None, (), transposed)
    targets = tuple(sorted(network.peft_config["default"].target_modules))
    return Blueprint(
        adapter_files.shapes_of(network), adapter_files.config_json(network), targets, transposed
    )
