"""What the parts of a run share."""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from services.trainer.engine.batches import Layout
from services.trainer.engine.checkpoint import Environment, Identity
from services.trainer.engine.events import EventSink
from services.trainer.engine.examples import Encoder, Examples
from services.trainer.engine.job import Job
from services.trainer.engine.model import TunableModel
from services.trainer.engine.optimizer import Optimizer
from services.trainer.engine.plan import Plan
from services.trainer.engine.process import StopRequest
from services.trainer.engine.team import Team


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
    holds the parameters of the lowest held-out loss, in a run that may stop early; `saved_step` is
    that of the last checkpoint, or of the one resumed from."""

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
