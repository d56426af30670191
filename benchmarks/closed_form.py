"""A job of the engine as the control plane estimates it: in closed form."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from services.registry.adapters.architectures import read_architecture
from services.trainer.control.domain.estimation.architecture import checked_architecture
from services.trainer.control.domain.estimation.devices import Device, DeviceKind
from services.trainer.control.domain.estimation.proposal import Proposal
from services.trainer.control.domain.estimation.reading import Examples
from services.trainer.control.domain.settings import checked_settings

_WORDS = ("precision", "gradient_checkpointing", "schedule", "placement", "activation")
_MEMORY_BYTES = 2**40


def cpu(bfloat16_flops: float, float32_flops: float) -> Device:
    """Of these speeds; the one that is higher is what the job computes in."""
    return Device(DeviceKind.CPU, "", _MEMORY_BYTES, bfloat16_flops, float32_flops)


def proposal_of(job_file: Path, examples: Examples, device: Device) -> Proposal:
    """Raises ValueError if the base model's files do not tell how it is built."""
    job = json.loads(job_file.read_text(encoding="utf-8"))
    directory = Path(job["base_model_dir"])
    architecture = read_architecture(directory)
    if architecture is None:
        raise ValueError(f"{directory} does not tell how it is built")
    training = job["training"]
    training["max_gradient_norm"] = training.pop("max_grad_norm")
    if training["epochs"] == 0:  # max_steps decides
        del training["epochs"]
    settings: dict[str, object] = {
        "method": _in_capitals(job["method"]),
        "training": _in_capitals(training),
    }
    return Proposal(
        architecture=checked_architecture(asdict(architecture)),
        settings=checked_settings(settings),
        examples=examples,
        device=device,
        stored_bytes=sum(file.stat().st_size for file in directory.iterdir()),
    )


def _in_capitals(settings: dict[str, Any]) -> dict[str, object]:
    """The engine's words are in lower case."""
    return {name: value.upper() if name in _WORDS else value for name, value in settings.items()}
