"""What can be turned off, to measure what it brings."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Switches:
    """`group_by_length`: a step's examples are of like length rather than as they come.
    `prefetch`: the next step's batches are made ready in another thread.
    `fused_adamw`: one kernel for the whole update rather than one for each of its operations.
    `labeled_logits`: the language-model head runs only where there is a label, in training.
    `resident_bfloat16`: frozen weights are rounded once rather than at each use.
    `fused_lora`: a LoRA layer is one operation that keeps its input and x·Aᵀ only.
    `short_attention`: plain matrix products where torch's CPU kernel for long rows is slower.
    `fused_layers`: Llama-shaped blocks with one product for q/k/v and one for gate/up, and RMSNorm,
    SwiGLU and RoPE in few passes.
    `in_place_loss`: the gradient of the logits takes their place.
    """

    group_by_length: bool = True
    prefetch: bool = True
    fused_adamw: bool = True
    labeled_logits: bool = True
    resident_bfloat16: bool = True
    fused_lora: bool = True
    short_attention: bool = True
    fused_layers: bool = True
    in_place_loss: bool = True
