"""Where a prefix begins: at keys and values that the model itself computes."""

from typing import Any

import torch
from torch import Tensor, nn

from services.tuners.prefix_layer import PrefixLayer


@torch.no_grad()
def start_from_tokens(network: nn.Module, token_ids: Tensor) -> None:
    """Sets the prefixes of a causal model, which must have no projection, to the keys and values
    that it has for `token_ids` (prefix_length,).

    From random numbers, far from anything the model has seen, training takes many times as long
    (Li & Liang 2021, section 7.4, saw the same).
    """
    tuned: Any = network
    with tuned.disable_adapter():
        cache: Any = tuned(input_ids=token_ids.unsqueeze(0), use_cache=True).past_key_values
    for layer in network.modules():
        if isinstance(layer, PrefixLayer):
            base: Any = layer.base_layer
            seen = cache.layers[base.layer_idx]
            parts = torch.stack([seen.keys[0], seen.values[0]])
            rows = parts.permute(2, 0, 1, 3).flatten(1)
            for embedding in layer.kv_prefix_embedding.values():
                embedding.copy_(rows)
