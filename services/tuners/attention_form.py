"""What a prefix has to know of the attention module that it is put into."""

import inspect
import sys
from dataclasses import dataclass
from typing import Any

from torch import nn

_MASKS = ("attention_mask", "mask")
_CACHES = ("past_key_values", "layer_past")
_WIDTHS = ("head_dim", "head_size", "key_value_proj_dim")
_WITHOUT_DENSE_MASK = ("flash", "flex", "paged")


@dataclass(frozen=True, slots=True)
class AttentionForm:
    """`mask` and `cache` are the names of these arguments. `key_heads` keys and as many values of
    `width` numbers each belong to a position. If `biased`, the scores get a bias by position."""

    mask: str
    cache: str
    key_heads: int
    width: int
    biased: bool


def attention_form(name: str, attention: nn.Module) -> AttentionForm:
    """Raises ValueError, with `name` and the reason, if a prefix cannot be put there."""
    kind = f"{name} ({type(attention).__name__}) cannot take a prefix"
    parameters = tuple(inspect.signature(type(attention).forward).parameters)
    mask = next((word for word in _MASKS if word in parameters), None)
    cache = next((word for word in _CACHES if word in parameters), None)
    if mask is None or cache is None or getattr(attention, "layer_idx", None) is None:
        raise ValueError(
            f"{kind}: looked for an attention with a layer_idx that is called with one of "
            f"{', '.join(_MASKS)} and one of {', '.join(_CACHES)}"
        )
    if not hasattr(sys.modules[type(attention).__module__], "ALL_ATTENTION_FUNCTIONS"):
        raise ValueError(f"{kind}: it does not use the attention functions of transformers")
    biased = "position_bias" in parameters
    if "alibi" in parameters or hasattr(attention, "compute_bias") != biased:
        raise ValueError(f"{kind}: its bias by position cannot be given to it")
    if "encoder_hidden_states" in parameters and getattr(attention, "is_cross_attention", False):
        raise ValueError(f"{kind}: looked for a cross-attention that is given key_value_states")
    key_heads, width = _keys(kind, attention)
    return AttentionForm(mask, cache, key_heads, width, biased)


def check_dense(attention: Any) -> None:
    """Raises ValueError if the model now attends in a way that takes no mask of single positions;
    this can change from call to call."""
    name = str(attention.config._attn_implementation)
    if any(word in name for word in _WITHOUT_DENSE_MASK):
        raise ValueError(f"prefix tuning needs attention with a dense mask (sdpa), not {name}")


def adds_mask(attention: Any) -> bool:
    """Whether the model now adds its mask to the scores; other functions take truth values too."""
    return attention.config._attn_implementation == "eager"


def _keys(kind: str, attention: Any) -> tuple[int, int]:
    widths = [getattr(attention, word) for word in _WIDTHS if hasattr(attention, word)]
    if len(widths) != 1 or hasattr(attention, "v_head_dim"):
        raise ValueError(
            f"{kind}: looked for one width of keys and values, named {', '.join(_WIDTHS)}"
        )
    for projection in ("k_proj", "k"):
        if hasattr(attention, projection):
            return getattr(attention, projection).out_features // widths[0], widths[0]
    config = attention.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return heads, widths[0]
