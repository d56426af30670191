"""What commands tell of a job: its method and its training, option by option."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import partial
from textwrap import fill
from typing import Annotated, Any, TypeVar

import typer
from google.protobuf.message import Message

from anneal.enums import number_of, word_of
from anneal.jobs import Method as MethodMessage
from anneal.trainer.v1.tuning_job_pb2 import (
    AdapterMethod,
    FullMethod,
    LoraMethod,
    PrefixMethod,
    QloraMethod,
)

M = TypeVar("M", bound=Message)

LINE_CHARACTERS = 90


class Method(StrEnum):
    """What of the model is trained."""

    FULL = "full"
    LORA = "lora"
    QLORA = "qlora"
    PREFIX = "prefix"
    ADAPTER = "adapter"


MESSAGES: Mapping[Method, type[MethodMessage]] = {
    Method.FULL: FullMethod,
    Method.LORA: LoraMethod,
    Method.QLORA: QloraMethod,
    Method.PREFIX: PrefixMethod,
    Method.ADAPTER: AdapterMethod,
}
"""A method's options are the fields of its message."""


class Placement(StrEnum):
    """Where adapters are."""

    HOULSBY = "houlsby"
    PFEIFFER = "pfeiffer"


class Activation(StrEnum):
    """What is between an adapter's way down and its way up."""

    RELU = "relu"
    SILU = "silu"
    GELU = "gelu"


class Backend(StrEnum):
    """What trains."""

    BUILTIN = "builtin"
    UNSLOTH = "unsloth"
    AXOLOTL = "axolotl"


class Schedule(StrEnum):
    """How the learning rate moves after the warm-up."""

    COSINE = "cosine"
    LINEAR = "linear"
    CONSTANT = "constant"


class Precision(StrEnum):
    """The numbers that a step is computed with."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class Checkpointing(StrEnum):
    """Whether activations are computed again in the backward pass."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


class Overlength(StrEnum):
    """What becomes of an example that is too long."""

    TRUNCATE = "truncate"
    DROP = "drop"
    REFUSE = "refuse"


_of_method = partial(typer.Option, rich_help_panel="Method")
_of_training = partial(typer.Option, rich_help_panel="Training")
_of_progress = partial(typer.Option, rich_help_panel="Evaluation and checkpoints")

MethodOption = Annotated[Method | None, _of_method(help="What of the model is trained (lora).")]
Rank = Annotated[int | None, _of_method(help="lora, qlora: the rank (8).")]
Alpha = Annotated[float | None, _of_method(help="lora, qlora: the scale (16).")]
Dropout = Annotated[float | None, _of_method(help="lora, qlora (0.1); adapter (0).")]
TargetModule = Annotated[
    list[str] | None,
    _of_method(help="lora, qlora: a layer to adapt; repeatable (all linear ones)."),
]
Rslora = Annotated[bool | None, _of_method(help="lora, qlora: scale by alpha / √rank (no).")]
Dora = Annotated[bool | None, _of_method(help="lora: train the columns' lengths apart (no).")]
Bits = Annotated[int | None, _of_method(help="qlora: 4 or 8 bits a frozen weight (4).")]
DoubleQuantization = Annotated[
    bool | None, _of_method(help="qlora: with 4 bits, quantise the scales too (yes).")
]
PrefixLength = Annotated[int | None, _of_method(help="prefix: positions before the text (20).")]
ProjectionSize = Annotated[
    int | None, _of_method(help="prefix: train it through a network this wide (0: as it is).")
]
AdapterSize = Annotated[int | None, _of_method(help="adapter: the inner width (64).")]
PlacementOption = Annotated[
    Placement | None, _of_method("--placement", help="adapter: where it is (pfeiffer).")
]
ActivationOption = Annotated[
    Activation | None, _of_method("--activation", help="adapter: between down and up (relu).")
]

Auto = Annotated[
    bool | None,
    _of_training("--auto", help="Choose what is left out by rules, not by fixed defaults."),
]
MaxSteps = Annotated[int, _of_training(help="Steps; 0: --epochs decides.")]
Epochs = Annotated[float | None, _of_training(help="Passes over the examples (3).")]
BatchSize = Annotated[int | None, _of_training(help="Examples in a step (8).")]
BatchTokens = Annotated[
    int | None, _of_training(help="Tokens in a step, instead of examples (0: --batch-size).")
]
MicroBatchTokens = Annotated[
    int | None, _of_training(help="Compute a step in parts of so many tokens (0: in one).")
]
Packing = Annotated[bool | None, _of_training(help="No padding: examples in one row (no).")]
LearningRate = Annotated[
    float | None,
    _of_training(help="The peak (full 2e-5, lora and qlora 2e-4, prefix 0.03, adapter 0.001)."),
]
WarmupSteps = Annotated[int | None, _of_training(help="Steps up to the peak (10).")]
ScheduleOption = Annotated[
    Schedule | None, _of_training("--schedule", help="After the warm-up (cosine).")
]
WeightDecay = Annotated[float | None, _of_training(help="AdamW's (0).")]
MaxGradientNorm = Annotated[float | None, _of_training(help="0 leaves it (1).")]
MaxSequenceTokens = Annotated[int | None, _of_training(help="The longest example (512).")]
LongExamples = Annotated[
    Overlength | None, _of_training(help="What becomes of longer ones (truncate).")
]
PrecisionOption = Annotated[
    Precision | None, _of_training("--precision", help="auto: bfloat16 where it is fast (auto).")
]
GradientCheckpointing = Annotated[
    Checkpointing | None, _of_training(help="auto: when memory runs out otherwise (auto).")
]

ValidationFraction = Annotated[
    float | None, _of_progress(help="The share of examples held out (0.1).")
]
EvaluateEvery = Annotated[int | None, _of_progress(help="Steps (50).")]
EarlyStoppingPatience = Annotated[
    int | None, _of_progress(help="Evaluations without a lower loss until it stops (0: never).")
]
SampleCount = Annotated[
    int | None, _of_progress(help="Held-out prompts answered at each evaluation (2).")
]
SampleMaxTokens = Annotated[int | None, _of_progress(help="The longest of these answers (48).")]
CheckpointEvery = Annotated[int | None, _of_progress(help="Steps (50).")]
KeepLastCheckpoints = Annotated[int | None, _of_progress(help="How many a run keeps (2).")]
KeepCheckpointEvery = Annotated[
    int | None, _of_progress(help="And those of steps divisible by this (0: none).")
]


def method_message(method: Method | None, given: Mapping[str, object]) -> MethodMessage | None:
    """Returns the method's message. `given` has the options of all methods by field, None where
    there is none. Options without a method are of lora; None where nothing is said at all. Raises
    BadParameter naming those of other methods."""
    if method is None and all(value is None for value in given.values()):
        return None
    method = method or Method.LORA
    kind = MESSAGES[method]
    own = [field.name for field in kind.DESCRIPTOR.fields]
    foreign = [name for name, value in given.items() if value is not None and name not in own]
    if foreign:
        said = "is no option" if len(foreign) == 1 else "are no options"
        raise typer.BadParameter(
            f"{_options(foreign)} {said} of --method {method}, which has {_options(own)}"
        )
    return filled(kind, {name: given[name] for name in own})


def option_of(field: str) -> str:
    """Returns `--prefix-length` for prefix_length; a repeated option is named in the singular."""
    name = "target_module" if field == "target_modules" else field
    return f"--{name.replace('_', '-')}"


def filled(kind: type[M], given: Mapping[str, object]) -> M:
    """Returns a message of what is not None; enums are given as words."""
    fields: dict[str, Any] = {
        name: _wire_value(kind.DESCRIPTOR.fields_by_name[name].enum_type, value)
        for name, value in given.items()
        if value is not None
    }
    return kind(**fields)


def settings_text(title: str, settings: Message) -> str:
    """Returns `lora rank=8 alpha=16.0 …`, in lines; unset fields and empty lists are left out."""
    shown = [
        f"{field.name}={_shown_value(field.enum_type, getattr(settings, field.name))}"
        for field in settings.DESCRIPTOR.fields
        if not field.has_presence or settings.HasField(field.name)
        if not field.is_repeated or getattr(settings, field.name)
    ]
    words = " ".join([title, *shown]).strip()
    return fill(words, LINE_CHARACTERS, break_long_words=False, break_on_hyphens=False)


def _wire_value(enum: Any, value: object) -> object:
    return value if enum is None else number_of(enum, str(value).upper())


def _shown_value(enum: Any, value: Any) -> str:
    if enum is not None:
        return word_of(enum, value).lower()
    return str(value).lower() if isinstance(value, bool) else str(value)


def _options(fields: Sequence[str]) -> str:
    """`--rank, --alpha and --dropout`; `none` of none."""
    *first, last = map(option_of, fields) if fields else ["none"]
    return f"{', '.join(first)} and {last}" if first else last
