"""The same network, faster: parts of a loaded model are computed with fewer passes and copies.

Nothing here changes what a model computes, its parameters or their names; a part that a fused
one does not cover stays as transformers and PEFT made it.
"""

from services.trainer.engine.fast.acceleration import accelerate
from services.trainer.engine.fast.cross_entropy import summed_cross_entropy
from services.trainer.engine.fast.hardware import multiplies_bfloat16
from services.trainer.engine.fast.switches import Switches

__all__ = [
    "Switches",
    "accelerate",
    "multiplies_bfloat16",
    "summed_cross_entropy",
]
