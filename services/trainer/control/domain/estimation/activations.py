"""What the backward pass needs of the forward pass, in bytes a token, counted from the layers.

Each count says which tensors autograd keeps, for the engine's own layers
(`services/trainer/engine/fast`), for those of transformers where ours do not reach (trained or
quantised weights, other families), and for what a method adds. `h` is the width of the residual
stream, `i` that inside the feed-forward. tests/unit/engine/test_closed_form.py holds them against
what autograd keeps indeed.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import assert_never

from services.trainer.control.domain.estimation.architecture import Architecture, LinearLayers
from services.trainer.control.domain.estimation.devices import Device, DeviceKind
from services.trainer.control.domain.estimation.parameters import adapter_count, target_layers
from services.trainer.control.domain.estimation.precision import FLOAT32_BYTES, Arithmetic
from services.trainer.control.domain.estimation.reading import Part
from services.trainer.control.domain.methods import (
    Activation,
    AdapterMethod,
    FullMethod,
    LoraMethod,
    Method,
    Placement,
    PrefixMethod,
    QloraMethod,
)

_FUSED = frozenset({"llama", "mistral", "qwen2"})
"""Families whose blocks the engine computes in few operations where their weights are frozen."""
_GPT = frozenset({"gpt2", "openai-gpt"})
_SHORT_KEYS = 1024
_QUERY_BLOCK = 128
_SHARED_INPUTS = (
    frozenset({"q_proj", "k_proj", "v_proj"}),
    frozenset({"gate_proj", "up_proj"}),
    frozenset({"q", "k", "v"}),
    frozenset({"wi_0", "wi_1"}),
)
"""Layers that read the same tensor."""


@dataclass(frozen=True)
class Blocks:
    """The blocks of a model, as a method trains them on a device."""

    architecture: Architecture
    method: Method
    numbers: Arithmetic
    device: Device

    def kept_bytes(self, part: Part) -> float:
        """Kept of all blocks for a part of a step."""
        a_token = (
            self._norms()
            + self._attention(part)
            + self._feed_forward()
            + self._dropouts()
            + self._products()
        )
        return part.tokens * self._share_of_tokens * a_token

    def inputs_bytes(self, part: Part) -> float:
        """Kept if each block keeps its input alone."""
        stream = self.architecture.hidden_size * self.numbers.stream_bytes
        return part.tokens * self._share_of_tokens * self.architecture.block_count * stream

    @property
    def _share_of_tokens(self) -> float:
        """Of the tokens, those that a block sees: about half are the encoder's, the others the
        decoder's."""
        return 0.5 if self.architecture.is_encoder_decoder else 1.0

    @property
    def _is_frozen(self) -> bool:
        return not isinstance(self.method, FullMethod)

    @property
    def _has_plain_low_rank(self) -> bool:
        """LoRA that the engine computes in one operation."""
        return isinstance(self.method, LoraMethod) and not self.method.dora

    @property
    def _attended_blocks(self) -> int:
        """Those of which the attention to themselves keeps anything: nothing is trained before the
        first adapter, which is behind the attention or the feed-forward of the first block."""
        count = self.architecture.block_count
        if not isinstance(self.method, AdapterMethod):
            return count
        return count - (2 if self.architecture.is_encoder_decoder else 1)

    @property
    def _fed_forward_blocks(self) -> int:
        """The same of the feed-forward."""
        method = self.method
        starts_late = isinstance(method, AdapterMethod) and method.placement is Placement.PFEIFFER
        return self.architecture.block_count - int(starts_late)

    @property
    def _sublayers(self) -> int:
        cross = self.architecture.decoder_layer_count
        return self._attended_blocks + self._fed_forward_blocks + cross

    @property
    def _keeps_scores_whole(self) -> bool:
        """Where attention has dropout, as GPT-2 and T5 have, torch computes it on a CPU step by
        step, and in float32."""
        model = self.architecture
        has_dropout = model.model_type in _GPT or model.is_encoder_decoder
        return has_dropout and self.device.kind is DeviceKind.CPU

    def _norms(self) -> float:
        """The normalised input and a factor for each token in ours; the input in LayerNorm; the
        input in float32 in transformers' RMSNorm, in T5's as it came in too, and the normalised one
        if its weight is trained."""
        model, count = self.architecture, self._sublayers
        stream = self.numbers.stream_bytes
        if model.model_type in _FUSED:
            return count * (model.hidden_size + 1) * stream
        if model.model_type in _GPT:
            return count * model.hidden_size * stream
        trained = 0 if self._is_frozen else stream
        as_it_came = stream if model.is_encoder_decoder and stream < FLOAT32_BYTES else 0
        return count * model.hidden_size * (FLOAT32_BYTES + as_it_came + trained)

    def _attention(self, part: Part) -> float:
        """Queries, keys and values, and of the scores what the kernel needs."""
        model = self.architecture
        number = FLOAT32_BYTES if self._keeps_scores_whole else self.numbers.product_bytes
        prefix = self.method.prefix_length if isinstance(self.method, PrefixMethod) else 0
        row_tokens = math.ceil(part.row_tokens * self._share_of_tokens)
        keys = 1 + prefix / row_tokens
        projected = (model.queries_width + 2 * model.keys_width * keys) * number
        attentions = self._attended_blocks + model.decoder_layer_count
        return attentions * (projected + self._scores(row_tokens, prefix))

    def _scores(self, row_tokens: int, prefix: int) -> float:
        """Up to 1,024 keys the engine's attention on a CPU keeps the weights, of blocks of 128
        queries up to the last key that they see; torch's, where it keeps any, weights, mask and
        product, else one number a head."""
        model, number = self.architecture, self.numbers.product_bytes
        if self._keeps_scores_whole:
            return 3 * model.head_count * (row_tokens + prefix) * FLOAT32_BYTES
        if self.device.kind is DeviceKind.CPU and row_tokens + prefix <= _SHORT_KEYS:
            return model.head_count * (_keys_seen(row_tokens) + prefix) * number
        return model.queries_width * number + model.head_count * FLOAT32_BYTES

    def _feed_forward(self) -> float:
        """SwiGLU keeps gate, up and the activated gate, ours as well as torch's. GELU as GPT-2 has
        it consists of products that keep four, ReLU keeps its result."""
        model = self.architecture
        widths = 3 if model.gated_feed_forward else 1
        if model.model_type in _GPT:
            widths = 4
        elif model.is_encoder_decoder and model.gated_feed_forward:
            widths = 6
        kept = self._fed_forward_blocks * widths * model.intermediate_size
        return kept * self.numbers.product_bytes

    def _dropouts(self) -> float:
        """Masks, as numbers, behind the sublayers and in T5's feed-forward; Llama has none."""
        model = self.architecture
        hidden = self._sublayers
        if model.is_encoder_decoder:
            inner = self._fed_forward_blocks * model.intermediate_size
            return (hidden * model.hidden_size + inner) * self.numbers.product_bytes
        if model.model_type in _GPT:
            return hidden * model.hidden_size * self.numbers.product_bytes
        return 0.0

    def _products(self) -> float:
        """What linear layers keep of their inputs, and what the method puts beside them."""
        match self.method:
            case FullMethod():
                return self._trained_inputs()
            case LoraMethod():
                return self._low_rank(self.method)
            case QloraMethod():
                return self._low_rank(self.method) + self._quantised_inputs(self.method)
            case PrefixMethod():
                return 0.0
            case AdapterMethod():
                return self._bottlenecks(self.method)
            case _:
                assert_never(self.method)

    def _trained_inputs(self) -> float:
        """A trained layer keeps its input; in mixed precision each its own rounded copy."""
        layers = self.architecture.linear_layers
        inputs = _all_inputs(layers) if self.numbers.is_mixed else _distinct_inputs(layers)
        return inputs * self.numbers.product_bytes

    def _low_rank(self, method: LoraMethod | QloraMethod) -> float:
        """In one operation: the layers' common input, a mask for each, and x·Aᵀ.

        PEFT's own layers take the input in float32: they keep a mask of float32 numbers and the
        rounded input, or in float32 the masked one; DoRA the layer's output twice as well.
        """
        layers = target_layers(self.architecture, method)
        number = self.numbers.product_bytes
        inputs, shared = _all_inputs(layers), _distinct_inputs(layers)
        narrow = sum(one.count for one in layers) * method.rank * number
        if self._has_plain_low_rank:
            masks = inputs if method.dropout else 0
            return (shared + masks) * number + narrow
        kept = inputs * number if method.dropout or number < FLOAT32_BYTES else shared * number
        masks = inputs * FLOAT32_BYTES if method.dropout else 0
        outputs = 0
        if isinstance(method, LoraMethod):
            outputs = 2 * sum(one.count * one.output_size for one in layers) * number
        return kept + masks + outputs + narrow

    def _quantised_inputs(self, method: QloraMethod) -> float:
        """A product with 8-bit weights keeps its input."""
        if method.bits == 4:
            return 0.0
        return _distinct_inputs(self.architecture.linear_layers) * self.numbers.product_bytes

    def _bottlenecks(self, method: AdapterMethod) -> float:
        """The rounded input of the way down, and what is between it and the way up: what the
        activation and the next product keep, for ReLU the same."""
        widths = 1 if method.activation is Activation.RELU else 2
        if method.dropout:
            widths += 2
        inside = widths * method.adapter_size
        sites = adapter_count(self.architecture, method)
        return sites * (self.architecture.hidden_size + inside) * self.numbers.product_bytes


def _all_inputs(layers: Iterable[LinearLayers]) -> int:
    return sum(one.count * one.input_size for one in layers)


def _distinct_inputs(layers: Iterable[LinearLayers]) -> int:
    """The widths of all tensors that the layers read, one that several read counted once."""
    widths: dict[object, int] = {}
    for one in layers:
        group = next((names for names in _SHARED_INPUTS if one.name in names), (one.name, one))
        widths[group] = max(widths.get(group, 0), one.count * one.input_size)
    return sum(widths.values())


def _keys_seen(row_tokens: int) -> float:
    """Mean over the queries of a row, which go through in blocks of about the same size."""
    count = math.ceil(row_tokens / _QUERY_BLOCK)
    size = math.ceil(math.ceil(row_tokens / count) / 8) * 8
    ends = [min(start + size, row_tokens) for start in range(0, row_tokens, size)]
    starts = [0, *ends[:-1]]
    seen = sum((end - start) * end for start, end in zip(starts, ends, strict=True))
    return seen / row_tokens
