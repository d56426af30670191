"""Full fine-tuning: every weight of the base model is trained."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from services.trainer.engine.base_model import load_base
from services.trainer.engine.errors import Fault, InvalidJob
from services.trainer.engine.methods.base import TuningMethod

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


@dataclass(frozen=True)
class Full(TuningMethod):
    """The result is a whole model with its tokenizer, in float32."""

    freezes_base: ClassVar[bool] = False

    kind: Literal["full"] = "full"

    def attach(self, base: Any) -> nn.Module:
        base.requires_grad_(True)
        network: nn.Module = base
        return network

    def start_from(self, network: nn.Module, directory: Path) -> None:
        with torch.no_grad():
            earlier = dict(load_base(directory, torch.float32).named_parameters())
            for name, parameter in network.named_parameters():
                if name not in earlier or earlier[name].shape != parameter.shape:
                    raise InvalidJob(Fault("start_from", f"has no weight like {name}"))
                parameter.copy_(earlier[name])

    def write(self, network: Any, base_dir: Path, target: Path) -> None:
        network.save_pretrained(target)
        copy_tokenizer(base_dir, target)


def copy_tokenizer(base_dir: Path, target: Path) -> None:
    """Copies those of the tokenizer's files that there are."""
    for name in _TOKENIZER_FILES:
        if (base_dir / name).is_file():
            shutil.copyfile(base_dir / name, target / name)
