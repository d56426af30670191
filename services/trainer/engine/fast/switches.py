"""What can be turned off, to measure what it brings."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Switches:
    """`resident_bfloat16`: frozen weights are rounded once rather than at each use.
    `fused_lora`: a LoRA layer is one operation that keeps its input and x·Aᵀ only.
    `short_attention`: plain matrix products where torch's CPU kernel for long rows is slower.
    `fused_layers`: Llama-shaped blocks with one product for q/k/v and one for gate/up, and RMSNorm,
    SwiGLU and RoPE in few passes.
    `in_place_loss`: the gradient of the logits takes their place.
    """

    resident_bfloat16: bool = True
    fused_lora: bool = True
    short_attention: bool = True
    fused_layers: bool = True
    in_place_loss: bool = True
