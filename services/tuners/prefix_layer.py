"""An attention module with trained keys and values before those of its tokens."""

from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from services.tuners.attention_form import AttentionForm, adds_mask, check_dense
from services.tuners.prefix_cache import KeysAndValues, prefixed
from services.tuners.prefix_mask import (
    added,
    causal_mask,
    key_count,
    prefix_seen,
    tokens_before,
)

_INITIAL_STD = 0.02


class PrefixLayer(nn.Module, BaseTunerLayer):
    """An attention whose keys and values are preceded by those of the active adapters.

    Every query sees the prefix, whatever the mask says of the tokens, so each of several examples
    in one row does. The tokens' positions begin at 0 all the same. Where a bias depends on the
    position of a key, that of the prefix is 0.

    Each adapter is a matrix (length, 2 · heads · width), or (length, size) and a network from
    there, `O tanh(I e + i) + o`, of each module's own. They are float32 whatever the type of
    the module.
    """

    adapter_layer_names = ("kv_prefix_embedding", "kv_prefix_inner", "kv_prefix_outer")

    def __init__(self, base_layer: nn.Module, adapter_name: str, form: AttentionForm) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.form = form
        self.kv_prefix_embedding = nn.ParameterDict()
        self.kv_prefix_inner = nn.ModuleDict()
        self.kv_prefix_outer = nn.ModuleDict()
        self._active_adapter = adapter_name

    def add(self, name: str, length: int, projection_size: int, *, inference_mode: bool) -> None:
        """Adds an adapter beside those that are there."""
        numbers = 2 * self.form.key_heads * self.form.width
        device = next(self.base_layer.parameters()).device
        options: dict[str, Any] = {"device": device, "dtype": torch.float32}
        rows = torch.empty(length, projection_size or numbers, **options)
        self.kv_prefix_embedding[name] = nn.Parameter(rows)
        std = 1.0 if projection_size else _INITIAL_STD
        nn.init.normal_(self.kv_prefix_embedding[name], std=std)
        if projection_size:
            self.kv_prefix_inner[name] = nn.Linear(projection_size, projection_size, **options)
            self.kv_prefix_outer[name] = nn.Linear(projection_size, numbers, **options)
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def keys_and_values(self) -> KeysAndValues | None:
        """The prefixes of the active adapters one after the other, (1, heads, length, width)."""
        names = [name for name in self.active_adapters if name in self.kv_prefix_embedding]
        if self.disable_adapters or not names:
            return None
        rows = torch.cat([self._rows(name) for name in names])
        parts = rows.view(-1, 2, self.form.key_heads, self.form.width).permute(1, 2, 0, 3)
        return KeysAndValues(parts[0:1], parts[1:2])

    def _rows(self, name: str) -> Tensor:
        embedding: Tensor = self.kv_prefix_embedding[name]
        if name in self.kv_prefix_inner:
            return self.kv_prefix_outer[name](torch.tanh(self.kv_prefix_inner[name](embedding)))
        return embedding

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Any:
        """`hidden_states` are (batch, length, hidden). Raises ValueError if the model attends in
        a way that takes no mask of single positions."""
        prefix = self.keys_and_values()
        if prefix is None:
            return self.base_layer(hidden_states, **kwargs)
        check_dense(self.base_layer)
        length = prefix.keys.shape[2]
        cross = kwargs.get("key_value_states") is not None
        cache, mask = kwargs.get(self.form.cache), kwargs.get(self.form.mask)
        if mask is None and not cross:
            mask = self._mask(hidden_states, cache, kwargs.get("is_causal"))
        if self.form.biased:
            bias = kwargs.get("position_bias")
            bias = self._bias(hidden_states, cache) if bias is None else bias
            kwargs["position_bias"] = prefix_seen(bias, length)
        kwargs[self.form.mask] = prefix_seen(mask, length)
        kwargs[self.form.cache] = prefixed(cache, prefix, cross=cross)
        outputs = self.base_layer(hidden_states, **kwargs)
        if self.form.biased:  # the next block is given it, for keys with a prefix of its own
            return (outputs[0], outputs[1][..., length:], *outputs[2:])
        return outputs

    def _mask(self, hidden_states: Tensor, cache: Any, asked: bool | None) -> Tensor | None:
        """Attention functions take a missing mask as causal from the first key on, and the prefix
        would be the first keys."""
        base: Any = self.base_layer
        queries = hidden_states.shape[1]
        causal = getattr(base, "is_causal", True) if asked is None else asked
        if queries == 1 or not causal:
            return None
        seen = causal_mask(queries, cache, base.layer_idx, hidden_states.device)
        return added(seen, hidden_states.dtype) if adds_mask(base) else seen

    def _bias(self, hidden_states: Tensor, cache: Any) -> Tensor | None:
        """That of the first block, from which the others get it; the module itself would count
        the prefix's positions."""
        base: Any = self.base_layer
        if not base.has_relative_attention_bias:
            return None
        queries = hidden_states.shape[1]
        bias: Tensor = base.compute_bias(
            queries,
            key_count(queries, cache, base.layer_idx),
            device=hidden_states.device,
            past_seen_tokens=tokens_before(cache, base.layer_idx),
        )
        return bias
