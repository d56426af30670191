"""Masks and biases of attention scores, with and without the columns of a prefix."""

from typing import Any

import torch
from torch import Tensor
from transformers import EncoderDecoderCache


def prefix_seen(scores: Tensor | None, length: int) -> Tensor | None:
    """A mask or bias (…, keys) for `length` more keys in front, which each query sees as they are:
    True in a mask of truth values, 0 in what is added to the scores. None stays None."""
    if scores is None:
        return None
    shape = (*scores.shape[:-1], length)
    seen = scores.new_full(shape, True) if scores.dtype == torch.bool else scores.new_zeros(shape)
    return torch.cat([seen, scores], dim=-1)


def causal_mask(queries: int, cache: Any, layer_idx: int, device: torch.device) -> Tensor:
    """(1, 1, queries, keys): True where the key's token is not behind the query's."""
    keys, first = _keys_and_first(queries, cache, layer_idx)
    query_at = torch.arange(queries, device=device) + tokens_before(cache, layer_idx)
    key_at = torch.arange(keys, device=device) + first
    return (key_at[None, :] <= query_at[:, None])[None, None]


def added(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask of truth values as one that is added to the scores."""
    hidden = torch.full((), torch.finfo(dtype).min, dtype=dtype, device=seen.device)
    return torch.where(seen, hidden.new_zeros(()), hidden)


def key_count(queries: int, cache: Any, layer_idx: int) -> int:
    """The number of keys once the cache, if any, holds the queries' tokens too."""
    return _keys_and_first(queries, cache, layer_idx)[0]


def tokens_before(cache: Any, layer_idx: int) -> int:
    """The number of tokens that came before the queries'."""
    return 0 if cache is None else int(_own(cache).get_seq_length(layer_idx))


def _keys_and_first(queries: int, cache: Any, layer_idx: int) -> tuple[int, int]:
    """The number of keys and the position of the first, later than 0 in a cache that forgets."""
    return (queries, 0) if cache is None else _own(cache).get_mask_sizes(queries, layer_idx)


def _own(cache: Any) -> Any:
    """The part of a cache that is for self-attention."""
    return cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache
