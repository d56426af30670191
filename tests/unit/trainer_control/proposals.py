"""Models, devices and jobs to make estimates of."""

from typing import Any

from services.trainer.control.domain.estimation.architecture import (
    Architecture,
    checked_architecture,
)
from services.trainer.control.domain.estimation.devices import Device, DeviceKind
from services.trainer.control.domain.estimation.proposal import Proposal
from services.trainer.control.domain.estimation.reading import Examples
from services.trainer.control.domain.settings import checked_settings

GIB = 2**30


def llama(
    hidden: int = 4096,
    inner: int = 14_336,
    layers: int = 32,
    heads: int = 32,
    key_heads: int = 8,
    tied_vocabulary: int = 0,
) -> Architecture:
    """Of the shape of an 8 B Llama, unless told otherwise; without a tied embedding there are two
    of 8 rows for each number of the width."""
    keys = hidden // heads * key_heads
    shapes = {
        "q_proj": (hidden, hidden),
        "k_proj": (hidden, keys),
        "v_proj": (hidden, keys),
        "o_proj": (hidden, hidden),
        "gate_proj": (hidden, inner),
        "up_proj": (hidden, inner),
        "down_proj": (inner, hidden),
    }
    vocabulary = tied_vocabulary or 8 * hidden
    embeddings = 1 if tied_vocabulary else 2
    linear = layers * sum(one * other for one, other in shapes.values())
    return checked_architecture(
        {
            "model_type": "llama",
            "parameter_count": linear
            + embeddings * vocabulary * hidden
            + (2 * layers + 1) * hidden,
            "hidden_size": hidden,
            "layer_count": layers,
            "head_count": heads,
            "key_value_head_count": key_heads,
            "head_size": hidden // heads,
            "intermediate_size": inner,
            "gated_feed_forward": True,
            "vocabulary_size": vocabulary,
            "tied_embeddings": bool(tied_vocabulary),
            "position_limit": 8192,
            "linear_layers": [
                {"name": name, "input_size": one, "output_size": other, "count": layers}
                for name, (one, other) in shapes.items()
            ],
        }
    )


def gpu(memory_gib: float = 80) -> Device:
    return Device(DeviceKind.CUDA, "a gpu", round(memory_gib * GIB), 4e14, 6e13)


def proposal(
    method: str = "lora",
    training: dict[str, Any] | None = None,
    *,
    model: Architecture | None = None,
    device: Device | None = None,
    examples: Examples | None = None,
    **settings: Any,
) -> Proposal:
    asked = {"method": {"kind": method, **settings}, "training": training or {}}
    return Proposal(
        architecture=model or llama(),
        settings=checked_settings(asked),
        examples=examples or Examples(1000, 200.0),
        device=device or gpu(),
    )
