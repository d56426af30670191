"""How a fused part stands to autocast."""

from typing import Any

import torch
from torch import Tensor, autograd


def product_dtype(weight: Tensor) -> torch.dtype:
    """What a product with this frozen weight is computed in: its own type unless autocast says
    otherwise."""
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype


def apply(function: type[autograd.Function], first: Tensor, *rest: object) -> Any:
    """Calls a function of ours, which chooses its types itself, out of autocast's reach.

    Its backward pass runs outside of autocast too, so both see the same types.
    """
    device = first.device.type
    if not torch.is_autocast_enabled(device):
        return function.apply(first, *rest)
    with torch.autocast(device, enabled=False):
        return function.apply(first, *rest)
