"""How a base model is built: all that parameters and memory can be counted from."""

from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import Field, TypeAdapter, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from services.trainer.control.domain.checks import checked
from services.trainer.control.domain.frozen import Frozen

_MAX_INT32 = 2**31 - 1
_MAX_WIDTH = 2**24

# Far above anything that exists, and low enough for every figure to stay a 64-bit number.
ParameterCount = Annotated[int, Field(ge=1, le=2**44)]
Width = Annotated[int, Field(ge=1, le=_MAX_WIDTH)]
Count = Annotated[int, Field(ge=1, le=2**16)]
CountOrNone = Annotated[int, Field(ge=0, le=2**16)]


class LinearLayers(Frozen):
    """Linear layers of one shape that go by one name, the last part of their whole names."""

    name: Annotated[str, Field(min_length=1, max_length=255)]
    input_size: Width
    output_size: Width
    count: Count

    @property
    def weight_count(self) -> int:
        return self.input_size * self.output_size * self.count


class Architecture(Frozen):
    """As `ModelArchitecture` of the registry's proto says."""

    model_type: Annotated[str, Field(min_length=1, max_length=255)]
    parameter_count: ParameterCount
    hidden_size: Width
    layer_count: Count
    decoder_layer_count: CountOrNone = 0
    head_count: Count
    key_value_head_count: Count
    head_size: Count
    intermediate_size: Width
    gated_feed_forward: bool = False
    vocabulary_size: Width
    tied_embeddings: bool = False
    position_limit: Annotated[int, Field(ge=0, le=_MAX_INT32)] = 0
    linear_layers: Annotated[tuple[LinearLayers, ...], Field(min_length=1, max_length=1024)]

    @field_validator("head_size")
    @classmethod
    def _has_heads_of_a_width(cls, head_size: int, info: ValidationInfo) -> int:
        """All heads together are a width as others are."""
        for counted in ("head_count", "key_value_head_count"):
            if info.data.get(counted, 0) * head_size > _MAX_WIDTH:
                raise PydanticCustomError(
                    "heads_too_wide",
                    "times {counted} must be at most {most}",
                    {"counted": counted, "most": _MAX_WIDTH},
                )
        return head_size

    @model_validator(mode="after")
    def _has_parameters_for_its_layers(self) -> Self:
        needed = self.linear_weight_count + self.head_weight_count
        if needed > self.parameter_count:
            raise PydanticCustomError(
                "too_few_parameters",
                "the linear layers and the embedding have {needed} weights, but parameter_count "
                "is {count}",
                {"needed": needed, "count": self.parameter_count},
            )
        return self

    @property
    def block_count(self) -> int:
        """Of the encoder too, if there is one."""
        return self.layer_count + self.decoder_layer_count

    @property
    def attention_count(self) -> int:
        """A block of a decoder behind an encoder attends twice: to itself, and to the encoder."""
        return self.layer_count + 2 * self.decoder_layer_count

    @property
    def is_encoder_decoder(self) -> bool:
        return self.decoder_layer_count > 0

    @property
    def queries_width(self) -> int:
        return self.head_count * self.head_size

    @property
    def keys_width(self) -> int:
        return self.key_value_head_count * self.head_size

    @property
    def linear_weight_count(self) -> int:
        """The weights of all linear layers of the blocks."""
        return sum(layers.weight_count for layers in self.linear_layers)

    @property
    def head_weight_count(self) -> int:
        """The weights of the product that makes the logits."""
        return self.hidden_size * self.vocabulary_size


_ARCHITECTURE: TypeAdapter[Architecture] = TypeAdapter(Architecture)


def checked_architecture(given: Mapping[str, object], root: str = "architecture") -> Architecture:
    """Raises InvalidArgument with every violation."""
    return checked(_ARCHITECTURE, given, root)
