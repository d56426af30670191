"""What the parts of a run share."""

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from torch import Tensor

from services.trainer.engine.batches import Layout
from services.trainer.engine.checkpoint import Environment, Identity
from services.trainer.engine.events import Alive, Doing, EventSink
from services.trainer.engine.examples import Encoder, Examples
from services.trainer.engine.job import Job
from services.trainer.engine.model import TunableModel
from services.trainer.engine.optimizer import Optimizer
from services.trainer.engine.plan import Plan
from services.trainer.engine.process import StopRequest
from services.trainer.engine.team import Team

T = TypeVar("T")

_ALIVE_EVERY_S = 1.0


@dataclass(slots=True)
class Pace:
    """What this process has trained on, `tokens` without padding."""

    tokens: int = 0
    seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float | None:
        return self.tokens / self.seconds if self.seconds > 0 else None


@dataclass(slots=True, eq=False)
class Run:
    """Everything that the loop works with. `clock` returns seconds and feeds events only; `best`
    holds the parameters of the lowest held-out loss, in a run that may stop early or is to finish;
    `saved_step` is that of the last checkpoint, or of the one resumed from. `alive_at_s` is when
    `doing` was last told of."""

    job: Job
    examples: Examples
    encoder: Encoder
    layout: Layout
    plan: Plan
    total_steps: int
    model: TunableModel
    optimizer: Optimizer
    identity: Identity
    environment: Environment
    team: Team
    events: EventSink
    stop: StopRequest
    clock: Callable[[], float]
    best: dict[str, Tensor] | None = field(default=None)
    saved_step: int | None = None
    pace: Pace = field(default_factory=Pace)
    doing: Doing = "step"
    alive_at_s: float = 0.0

    @contextmanager
    def begun(self, doing: Doing) -> Generator[None]:
        """Tells what the block does instead of a step."""
        self.doing = doing
        self._tell_alive()
        yield
        self.doing = "step"

    def goes_on(self) -> None:
        """A part of what is done has been done."""
        if self.clock() - self.alive_at_s >= _ALIVE_EVERY_S:
            self._tell_alive()

    def _tell_alive(self) -> None:
        self.alive_at_s = self.clock()
        self.events.emit(Alive(self.doing))

    def each(self, parts: Iterable[T]) -> Generator[T]:
        """The parts of what is done, which goes on with each."""
        for part in parts:
            yield part
            self.goes_on()
