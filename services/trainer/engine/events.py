"""What the engine reports: one JSON object a line, told apart by `type`."""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import ClassVar, Literal, Protocol


@dataclass(frozen=True, slots=True)
class Started:
    """Sent once, before the first step. `start_step` is 0, or the step resumed from.

    Token counts leave out padding. `skipped_examples` have no token to learn from within
    `max_sequence_tokens`; `truncated_examples` lost their end to it.
    """

    type: ClassVar[str] = "started"

    total_steps: int
    start_step: int
    epochs: float
    training_examples: int
    validation_examples: int
    skipped_examples: int
    truncated_examples: int
    trainable_parameters: int
    total_parameters: int
    tokens_per_epoch: int
    device: str


@dataclass(frozen=True, slots=True)
class StepDone:
    """Sent after each optimizer step. `loss` is in nats per labeled token of this batch.

    `epoch` is the part of the data seen so far (1.5 = one and a half passes); `tokens` those of
    this batch without padding; `gradient_norm` that before clipping. `eta_seconds` rests on the
    mean step of this process.
    """

    type: ClassVar[str] = "step"

    step: int
    total_steps: int
    epoch: float
    loss: float
    best_loss: float
    learning_rate: float
    gradient_norm: float
    tokens: int
    tokens_per_second: float
    progress_percent: float
    eta_seconds: float
    step_seconds: float


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The held-out examples after `step`: nats per labeled token, and the share of labeled
    tokens that were the model's first choice. `best_loss` is the lowest held-out loss so far."""

    type: ClassVar[str] = "eval"

    step: int
    loss: float
    token_accuracy: float
    examples: int
    tokens: int
    best_loss: float


@dataclass(frozen=True, slots=True)
class Sample:
    """What the model answers to a held-out prompt, beside what the example says."""

    prompt: str
    expected: str
    output: str


@dataclass(frozen=True, slots=True)
class Sampled:
    """Answers after `step`, each time to the same prompts, so that a person can read the
    progress."""

    type: ClassVar[str] = "samples"

    step: int
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class Resumed:
    """A run goes on after `step`. The digests (sha256, hex) are of the parameters and moments as
    the checkpoint holds them and as the run has them; `exact` tells that they are equal, and
    `environment` what has changed of that on which the last bits depend."""

    type: ClassVar[str] = "resumed"

    step: int
    checkpoint_digest: str
    restored_digest: str
    exact: bool
    environment: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CheckpointSaved:
    """A checkpoint is whole and on disk. `digest` (sha256, hex) covers all of its files."""

    type: ClassVar[str] = "checkpoint"

    step: int
    path: str
    digest: str


@dataclass(frozen=True, slots=True)
class Relieved:
    """Memory ran out in `step`, which is done again, or in an earlier run that died of it: from
    here on in parts of at most `micro_batch_tokens` padded tokens (0: of any number), and with
    `recompute` with activations computed again instead of kept. `message` says so in words."""

    type: ClassVar[str] = "relieved"

    step: int
    micro_batch_tokens: int
    recompute: bool
    message: str


Doing = Literal["step", "evaluation", "samples", "checkpoint", "result"]


@dataclass(frozen=True, slots=True)
class Alive:
    """Something other than a step begins, or what was begun before goes on: told once a second
    while it does so in parts. Its end is told by the event that it leads to."""

    type: ClassVar[str] = "alive"

    doing: Doing


@dataclass(frozen=True, slots=True)
class LogLine:
    """Something that a person who reads the job's log should know."""

    type: ClassVar[str] = "log"

    level: Literal["info", "warning"]
    message: str


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file of the result; `path` is relative to the artifacts directory, `sha256` in hex."""

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The artifacts are whole and on disk. `final_loss` and `best_loss` are the last and the
    lowest loss of a training step; `validation_loss` and `token_accuracy` are what the held-out
    examples showed of the model that is the result, or null if nothing was held out.

    `peak_memory_bytes` is the most that this run's processes have held, on a GPU in tensors there;
    `tokens_per_second` that of the training steps of this attempt, padding apart, or null if it
    had none left to do. Measured as they are, these two do not count when results are compared.
    """

    type: ClassVar[str] = "finished"

    steps: int
    final_loss: float | None
    best_loss: float | None
    validation_loss: float | None
    artifacts: tuple[Artifact, ...]
    token_accuracy: float | None = None
    peak_memory_bytes: int = field(default=0, compare=False)
    tokens_per_second: float | None = field(default=None, compare=False)


FailureKind = Literal["out_of_memory", "invalid_job", "invalid_data", "diverged", "error"]


@dataclass(frozen=True, slots=True)
class Failed:
    """The last event of a run that did not finish and was not asked to stop."""

    type: ClassVar[str] = "failed"

    kind: FailureKind
    message: str


Event = (
    Started
    | Resumed
    | StepDone
    | Evaluated
    | Sampled
    | CheckpointSaved
    | Relieved
    | Alive
    | LogLine
    | Finished
    | Failed
)


class EventSink(Protocol):
    def emit(self, event: Event) -> None: ...


class NoEvents:
    """For a process whose leader speaks for it."""

    def emit(self, event: Event) -> None:
        pass


class EventPipe:
    """Writes events to a descriptor, each one whole before `emit` returns.

    Raises BrokenPipeError when nobody reads any more.
    """

    def __init__(self, descriptor: int, now: Callable[[], float]) -> None:
        """`now` gives the time in seconds since the Unix epoch."""
        self._descriptor = descriptor
        self._now = now

    def emit(self, event: Event) -> None:
        line = memoryview(event_line(event, self._now()))
        while line:
            line = line[os.write(self._descriptor, line) :]


def event_line(event: Event, time_s: float) -> bytes:
    """The event as one line of JSON, `type` and `time` (s since the Unix epoch) first.

    Raises ValueError for a NaN or infinity.
    """
    fields = {"type": event.type, "time": time_s, **asdict(event)}
    return json.dumps(fields, allow_nan=False).encode() + b"\n"
