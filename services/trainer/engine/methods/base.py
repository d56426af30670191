"""What every method of tuning can do."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import ConfigDict
from torch import nn

from services.trainer.engine import adapter_files
from services.trainer.engine.base_model import load_base


@dataclass(frozen=True)
class TuningMethod(ABC):
    """A method and its hyperparameters. A base model is loaded, then the trainable part attached
    to it, and in the end written down; what differs between methods is in these three."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(
        strict=True, extra="forbid", allow_inf_nan=False
    )

    freezes_base: ClassVar[bool] = True
    """The base model's own weights stay as they are, so they need no float32 copy."""

    def load(self, directory: Path, dtype: torch.dtype) -> Any:
        """The base model in `dtype`. Raises InvalidJob."""
        return load_base(directory, dtype)

    def quantization(self, dtype: torch.dtype) -> Any:
        """transformers' configuration of how linear layers are kept that compute in `dtype`, if
        in fewer bits than they have."""
        return None

    @abstractmethod
    def attach(self, base: Any) -> nn.Module:
        """Puts the trainable parameters into `base` and freezes all others, unless the method
        trains them. Draws from torch's generator. Raises InvalidJob where it does not fit."""

    def start_from(self, network: nn.Module, directory: Path) -> None:
        """Takes over the trained parameters of an earlier result of this method.

        Raises InvalidJob if it is another method's, or of another shape.
        """
        adapter_files.read(network, directory)

    def write(self, network: nn.Module, base_dir: Path, target: Path) -> None:
        """Writes the result's files into the empty directory `target`, always the same bytes."""
        adapter_files.write(network, target)
