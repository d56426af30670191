"""What an attention module with a prefix is given for a cache.

An attention module hands its new keys and values to its cache and attends to what it gets back.
So the prefix comes in here, behind whatever cache there really is, which never holds it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import EncoderDecoderCache


@dataclass(frozen=True, slots=True, eq=False)
class KeysAndValues:
    """`keys` and `values` are (batch or 1, heads, length, width)."""

    keys: Tensor
    values: Tensor

    def before(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        return _joined(self.keys, keys), _joined(self.values, values)


def _joined(prefix: Tensor, states: Tensor) -> Tensor:
    shared = prefix.to(states.dtype).expand(states.shape[0], -1, -1, -1)
    return torch.cat([shared, states], dim=2)


class PrefixedCache:
    """`cache` with a prefix before what it gives back; without a cache, before the new states."""

    def __init__(self, cache: Any, prefix: KeysAndValues) -> None:
        self._cache = cache
        self._prefix = prefix

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> Sequence[Tensor]:
        if self._cache is not None:
            keys, values = self._cache.update(keys, values, *args, **kwargs)
        return self._prefix.before(keys, values)

    def get_seq_length(self, layer_idx: int = 0) -> Any:
        """The number of tokens in the cache, without the prefix."""
        return 0 if self._cache is None else self._cache.get_seq_length(layer_idx)

    @property
    def layers(self) -> "PrefixedCache":
        return self

    def __getitem__(self, layer_idx: int) -> KeysAndValues:
        layer = self._cache.layers[layer_idx]
        return KeysAndValues(*self._prefix.before(layer.keys, layer.values))


class PrefixedPair(EncoderDecoderCache):
    """An encoder–decoder's cache whose part for cross-attention has a prefix.

    Cross-attention computes its keys and values once, notes it here, and from then on reads them
    from the cache's layers.
    """

    def __init__(self, pair: EncoderDecoderCache, prefix: KeysAndValues) -> None:
        self.self_attention_cache = pair.self_attention_cache
        self.cross_attention_cache: Any = PrefixedCache(pair.cross_attention_cache, prefix)
        self.is_updated = pair.is_updated


def prefixed(cache: Any, prefix: KeysAndValues, *, cross: bool) -> Any:
    """What to give to the module in place of `cache`, which may be None."""
    if not isinstance(cache, EncoderDecoderCache):
        return PrefixedCache(cache, prefix)
    if cross:
        return PrefixedPair(cache, prefix)
    return PrefixedCache(cache.self_attention_cache, prefix)
