"""From a tool's reports to the engine's events."""

import math
from collections.abc import Callable

from pydantic import ValidationError

from services.trainer.backends.errors import ToolDiverged, ToolFailed
from services.trainer.backends.recipe import Recipe
from services.trainer.backends.reports import REPORT, Began, Ended, HeldOut, Stepped
from services.trainer.backends.tools import Tool
from services.trainer.engine.events import Evaluated, EventSink, LogLine, Started, StepDone
from services.trainer.engine.examples import Examples

_SHOWN_CHARACTERS = 200


class Progress:
    """How far a tool is. `clock` gives seconds."""

    def __init__(
        self,
        tool: Tool,
        recipe: Recipe,
        examples: Examples,
        events: EventSink,
        clock: Callable[[], float],
    ) -> None:
        self.step = 0
        self.loss: float | None = None
        self.best_loss: float | None = None
        self.validation_loss: float | None = None
        self.token_accuracy: float | None = None
        """After the last step alone."""
        self._best_validation_loss = math.inf
        self._tool, self._recipe, self._examples = tool, recipe, examples
        self._events, self._clock = events, clock
        self._began_at: float | None = None
        self._last_at = 0.0

    @property
    def is_complete(self) -> bool:
        return self.step == self._recipe.total_steps

    def take(self, line: bytes) -> None:
        """Tells what a report says; of what is none, that it came.

        Raises ToolDiverged, and ToolFailed for another number of steps than was asked for.
        """
        try:
            report = REPORT.validate_json(line)
        except ValidationError:
            self._unexpected(line)
            return
        match report:
            case Began():
                self._begin(report)
            case Stepped() if self._began_at is not None:
                self._count(report, self._began_at)
            case HeldOut() if self._began_at is not None:
                self._evaluate(report)
            case Ended(step=step) if step == self.step:
                pass
            case _:
                self._unexpected(line)

    def _unexpected(self, line: bytes) -> None:
        shown = line.decode(errors="replace")[:_SHOWN_CHARACTERS]
        self._events.emit(LogLine("warning", f"{self._tool} reported what is no report: {shown}"))

    def _begin(self, report: Began) -> None:
        if report.total_steps != self._recipe.total_steps:
            raise ToolFailed(
                f"{self._tool} would train {report.total_steps} steps instead of "
                f"{self._recipe.total_steps}"
            )
        self._began_at = self._last_at = self._clock()
        examples = self._examples
        self._events.emit(LogLine("info", f"trained by {report.software}"))
        self._events.emit(
            Started(
                total_steps=report.total_steps,
                start_step=0,
                epochs=self._recipe.epochs,
                training_examples=len(examples.training),
                validation_examples=len(examples.validation),
                skipped_examples=examples.skipped + examples.dropped,
                truncated_examples=examples.truncated,
                trainable_parameters=report.trainable_parameters,
                total_parameters=report.total_parameters,
                tokens_per_epoch=sum(map(len, examples.training)),
                device=report.device,
            )
        )

    def _count(self, report: Stepped, began_at: float) -> None:
        if not (math.isfinite(report.loss) and math.isfinite(report.gradient_norm)):
            raise ToolDiverged(
                f"step {report.step} has loss {report.loss} and gradient norm "
                f"{report.gradient_norm}; a lower learning rate or a longer warm-up may help"
            )
        now, total = self._clock(), self._recipe.total_steps
        seconds, self._last_at = now - self._last_at, now
        self.step, self.loss = report.step, report.loss
        self.best_loss = report.loss if self.best_loss is None else min(self.best_loss, report.loss)
        self._events.emit(
            StepDone(
                step=report.step,
                total_steps=total,
                epoch=report.epoch,
                loss=report.loss,
                best_loss=self.best_loss,
                learning_rate=report.learning_rate,
                gradient_norm=report.gradient_norm,
                tokens=report.tokens,
                tokens_per_second=report.tokens / max(seconds, 1e-9),
                progress_percent=100 * report.step / total,
                eta_seconds=(now - began_at) / report.step * (total - report.step),
                step_seconds=seconds,
            )
        )

    def _evaluate(self, report: HeldOut) -> None:
        if not math.isfinite(report.loss):
            raise ToolDiverged(f"step {report.step} has held-out loss {report.loss}")
        self._best_validation_loss = min(self._best_validation_loss, report.loss)
        if report.step == self._recipe.total_steps:
            self.validation_loss = report.loss
            self.token_accuracy = report.token_accuracy
        self._events.emit(
            Evaluated(
                step=report.step,
                loss=report.loss,
                token_accuracy=report.token_accuracy,
                examples=len(self._examples.validation),
                tokens=report.tokens,
                best_loss=self._best_validation_loss,
            )
        )
        self._last_at = self._clock()  # the next step is not to count this time
