"""How a model is built, told from its config and the shapes of its weights.

Sizes come from the config under the names that the families of transformers give them; the linear
layers and the count of parameters from the weights themselves. Where anything is missing, or is
built in another way, nothing is told: a wrong figure would be worse.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

Shape = tuple[int, ...]

_MAX_INT32 = 2**31 - 1
_MAX_INT64 = 2**63 - 1
_IN_BLOCK = re.compile(r"(?:^|\.)(?:layers|h|block|blocks)\.(\d+)\.(.+)")
_DECODER = re.compile(r"(?:^|\.)decoder\.")
_HEAD = "lm_head.weight"
_ENCODER_DECODERS = frozenset({"t5", "mt5", "umt5"})
_EMBEDDINGS_IN_BLOCKS = frozenset({"relative_attention_bias"})
_INPUTS_FIRST = frozenset({"gpt2", "openai-gpt"})
"""Families whose linear layers are Conv1D, which keeps its weight as (inputs, outputs)."""
_GATES = frozenset({"gate_proj", "gate_up_proj", "wi_0"})


@dataclass(frozen=True, order=True)
class LinearLayers:
    """Linear layers of one shape that go by one name, the last part of their whole names."""

    name: str
    input_size: int
    output_size: int
    count: int


@dataclass(frozen=True)
class ModelArchitecture:
    """As the proto of this name says."""

    model_type: str
    parameter_count: int
    hidden_size: int
    layer_count: int
    decoder_layer_count: int
    head_count: int
    key_value_head_count: int
    head_size: int
    intermediate_size: int
    gated_feed_forward: bool
    vocabulary_size: int
    tied_embeddings: bool
    position_limit: int
    linear_layers: tuple[LinearLayers, ...]

    @property
    def is_encoder_decoder(self) -> bool:
        return self.decoder_layer_count > 0


class _Unknown(Exception):
    """The model is not built in a way that is known here."""


def architecture_of(
    config: Mapping[str, object], shapes: Mapping[str, Shape]
) -> ModelArchitecture | None:
    """What config.json and the weights' shapes, by their names, tell; None if that is not enough,
    or the model is a mixture of experts, quantised, or of several towers."""
    try:
        return _architecture(config, shapes)
    except _Unknown:
        return None


def _architecture(config: Mapping[str, object], shapes: Mapping[str, Shape]) -> ModelArchitecture:
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not model_type or "quantization_config" in config:
        raise _Unknown
    paired = model_type in _ENCODER_DECODERS
    if bool(config.get("is_encoder_decoder", False)) is not paired:
        raise _Unknown
    if any("expert" in name for name in shapes):
        raise _Unknown
    hidden = _size(config, "hidden_size", "n_embd", "d_model")
    heads = _size(config, "num_attention_heads", "n_head", "num_heads")
    layers = _size(config, "num_hidden_layers", "n_layer", "num_layers")
    decoder_layers = _size(config, "num_decoder_layers", default=layers) if paired else 0
    _check_blocks(shapes, layers, decoder_layers)
    linears = _linear_layers(shapes, inputs_first=model_type in _INPUTS_FIRST)
    tied = _tied(config, shapes)
    return ModelArchitecture(
        model_type=model_type,
        parameter_count=_parameter_count(shapes, tied=tied),
        hidden_size=hidden,
        layer_count=layers,
        decoder_layer_count=decoder_layers,
        head_count=heads,
        key_value_head_count=_size(config, "num_key_value_heads", default=heads),
        head_size=_size(config, "head_dim", "d_kv", default=hidden // heads),
        intermediate_size=_size(config, "intermediate_size", "n_inner", "d_ff", default=4 * hidden),
        gated_feed_forward=any(one.name in _GATES for one in linears),
        vocabulary_size=_size(config, "vocab_size"),
        tied_embeddings=tied,
        position_limit=0 if paired else _position_limit(config),
        linear_layers=linears,
    )


def _size(config: Mapping[str, object], *names: str, default: int | None = None) -> int:
    """The first of these that is set; a null counts as unset. Raises _Unknown unless it is a
    positive int32."""
    given = [config[name] for name in names if config.get(name) is not None]
    size = given[0] if given else default
    if not isinstance(size, int) or isinstance(size, bool) or not 0 < size <= _MAX_INT32:
        raise _Unknown
    return size


def _position_limit(config: Mapping[str, object]) -> int:
    """0: none is set."""
    names = ("max_position_embeddings", "n_positions")
    if all(config.get(name) is None for name in names):
        return 0
    return _size(config, *names)


def _tied(config: Mapping[str, object], shapes: Mapping[str, Shape]) -> bool:
    """An older config leaves out what is the family's default; then no stored head is a shared
    one, for weights that are the same are stored once."""
    said = config.get("tie_word_embeddings")
    return said if isinstance(said, bool) else _HEAD not in shapes


def _check_blocks(shapes: Mapping[str, Shape], layers: int, decoder_layers: int) -> None:
    """Raises _Unknown unless the weights have the blocks that the config says."""
    first: set[str] = set()
    behind: set[str] = set()
    for name in shapes:
        inside = _IN_BLOCK.search(name)
        if inside is not None:
            in_decoder = decoder_layers > 0 and _DECODER.search(name) is not None
            (behind if in_decoder else first).add(inside[1])
    if (len(first), len(behind)) != (layers, decoder_layers):
        raise _Unknown


def _linear_layers(shapes: Mapping[str, Shape], *, inputs_first: bool) -> tuple[LinearLayers, ...]:
    """All matrices of the blocks that are no embeddings. Raises _Unknown if there are none, or a
    weight that is neither a matrix nor a vector."""
    counts: Counter[tuple[str, int, int]] = Counter()
    for name, shape in shapes.items():
        inside = _IN_BLOCK.search(name)
        if inside is None or not inside[2].endswith(".weight"):
            continue
        layer = inside[2].removesuffix(".weight").rsplit(".", 1)[-1]
        if len(shape) > 2:
            raise _Unknown
        if len(shape) == 2 and layer not in _EMBEDDINGS_IN_BLOCKS:
            inputs, outputs = shape if inputs_first else (shape[1], shape[0])
            if not (0 < inputs <= _MAX_INT32 and 0 < outputs <= _MAX_INT32):
                raise _Unknown
            counts[layer, inputs, outputs] += 1
    if not counts:
        raise _Unknown
    return tuple(sorted(LinearLayers(*key, count) for key, count in counts.items()))


def _parameter_count(shapes: Mapping[str, Shape], *, tied: bool) -> int:
    has_shared = "shared.weight" in shapes
    count = sum(
        prod(shape)
        for name, shape in shapes.items()
        if not (_is_buffer(name, shape) or (tied and name == _HEAD))
        if not (has_shared and name.endswith(".embed_tokens.weight"))  # the same by another name
    )
    if not 0 < count <= _MAX_INT64:
        raise _Unknown
    return count


def _is_buffer(name: str, shape: Shape) -> bool:
    """Older files keep masks and frequencies beside the parameters."""
    mask = name.endswith(".attn.bias") and len(shape) == 4
    return mask or name.endswith((".masked_bias", ".rotary_emb.inv_freq"))
