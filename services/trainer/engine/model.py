"""The base model from its directory, with the method's trainable part attached."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor, nn

from services.trainer.engine.errors import Fault, InvalidJob
from services.trainer.engine.job import Method
from services.trainer.engine.lora import attach_lora

_transformers: Any = transformers  # its auto classes are not typed


@dataclass(frozen=True, slots=True, eq=False)
class TunableModel:
    """A frozen causal language model with a trainable part.

    `network` is what is called; `head` the module inside it that makes the logits; `trainable`
    holds every parameter that changes, by name, sorted by it.
    """

    network: nn.Module
    head: nn.Module
    trainable: dict[str, nn.Parameter]
    total_parameters: int
    device: torch.device

    @property
    def trainable_parameters(self) -> int:
        return sum(p.numel() for p in self.trainable.values())

    def trainable_tensors(self) -> dict[str, Tensor]:
        """The trainable parameters' values; they share memory with the model."""
        return {name: parameter.detach() for name, parameter in self.trainable.items()}

    def set_trainable_tensors(self, values: Mapping[str, Tensor]) -> None:
        """Copies in what `trainable_tensors` gave; raises KeyError if a parameter is missing."""
        with torch.no_grad():
            for name, parameter in self.trainable.items():
                parameter.copy_(values[name])


def load_tunable_model(directory: Path, method: Method) -> TunableModel:
    """Loads in float32 and attaches the method's parameters, drawn from torch's generator.

    Raises InvalidJob if the directory holds no causal model in safetensors, or the method does
    not fit the model.
    """
    base = _load_base(directory)
    head: nn.Module | None = base.get_output_embeddings()
    if head is None:
        raise InvalidJob(Fault("base_model_dir", "the model has no language-model head"))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = attach_lora(base, method).to(device)
    named = {name: p for name, p in network.named_parameters() if p.requires_grad}
    return TunableModel(
        network=network,
        head=base.get_output_embeddings(),
        trainable=dict(sorted(named.items())),
        total_parameters=sum(p.numel() for p in network.parameters()),
        device=device,
    )


def base_model_digest(directory: Path) -> str:
    """A sha256 over the names and contents of the files that make up the base model."""
    digest = hashlib.sha256()
    for path in (directory / "config.json", *_weight_files(directory)):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.name} {content}\n".encode())
    return digest.hexdigest()


def check_base_model(directory: Path) -> None:
    """Raises InvalidJob unless a config and safetensors weights are there."""
    if not (directory / "config.json").is_file():
        raise InvalidJob(Fault("base_model_dir", "has no config.json"))
    if not _weight_files(directory):
        raise InvalidJob(Fault("base_model_dir", "has no *.safetensors file"))


def position_limit(directory: Path) -> int | None:
    """The number of tokens that the model can read at once, if its config tells.

    Raises InvalidJob if the config is not readable.
    """
    try:
        config: dict[str, Any] = json.loads((directory / "config.json").read_bytes())
        limit = config.get("max_position_embeddings", config.get("n_positions"))
    except (OSError, ValueError, AttributeError) as error:
        raise InvalidJob(Fault("base_model_dir", f"config.json: {error}")) from error
    return limit if isinstance(limit, int) else None


def _weight_files(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.safetensors"))


def _load_base(directory: Path) -> Any:
    check_base_model(directory)
    try:
        base, report = _transformers.AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise InvalidJob(Fault("base_model_dir", f"cannot be loaded: {error}")) from error
    if report["missing_keys"]:  # they would be random
        missing = ", ".join(sorted(report["missing_keys"])[:5])
        raise InvalidJob(Fault("base_model_dir", f"its weights lack {missing}"))
    base.config.use_cache = False
    return base
