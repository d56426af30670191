"""The training loop.

A step is a pure function of its number: the plan says which examples it sees, the schedule its
learning rate, the seed its dropout masks. What a step leaves behind is the trainable
parameters, the optimizer's moments and `Progress`, and that is what a checkpoint holds.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum, auto

from torch import autograd

from services.trainer.engine.checkpoint import (
    Environment,
    Identity,
    Progress,
    checkpoint_path,
    save_checkpoint,
)
from services.trainer.engine.determinism import seed_randomness
from services.trainer.engine.errors import TrainingDiverged
from services.trainer.engine.evaluation import evaluate
from services.trainer.engine.events import CheckpointSaved, Evaluated, EventSink, StepDone
from services.trainer.engine.examples import Examples
from services.trainer.engine.job import Job
from services.trainer.engine.loss import Batch, collate, label_logits, mean_loss
from services.trainer.engine.model import TunableModel
from services.trainer.engine.optimizer import Optimizer
from services.trainer.engine.plan import Plan
from services.trainer.engine.process import StopRequest
from services.trainer.engine.schedule import learning_rate


class Ending(Enum):
    COMPLETE = auto()
    STOPPED = auto()
    """On request, after a checkpoint."""


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Everything that the loop works with. `clock` returns seconds and feeds events only."""

    job: Job
    examples: Examples
    plan: Plan
    total_steps: int
    model: TunableModel
    optimizer: Optimizer
    identity: Identity
    environment: Environment
    events: EventSink
    stop: StopRequest
    clock: Callable[[], float]


def train(run: Run, progress: Progress) -> tuple[Ending, Progress]:
    """Trains from the step after `progress` to the last, with a checkpoint at the last.

    Raises TrainingDiverged, with the parameters as the step before left them.
    """
    training = run.job.training
    first_step = progress.step
    training_seconds = 0.0
    run.model.network.train()
    while progress.step < run.total_steps:
        if run.stop.requested:
            _save(run, progress)
            return Ending.STOPPED, progress

        started = run.clock()
        step = progress.step + 1
        examples = [run.examples.training[i] for i in run.plan.batch(step)]
        batch = collate(examples, run.model.device)
        rate = learning_rate(step, run.total_steps, training)
        loss, gradient_norm = _take_step(run, step, batch, rate)
        best = _min(progress.best_loss, loss)
        progress = replace(progress, step=step, loss=loss, best_loss=best)

        seconds = run.clock() - started
        training_seconds += seconds
        mean_seconds = training_seconds / (step - first_step)
        run.events.emit(
            StepDone(
                step=step,
                total_steps=run.total_steps,
                epoch=run.plan.epochs_done(step),
                loss=loss,
                best_loss=best,
                learning_rate=rate,
                gradient_norm=gradient_norm,
                tokens=batch.tokens,
                tokens_per_second=batch.tokens / max(seconds, 1e-9),
                progress_percent=100 * step / run.total_steps,
                eta_seconds=mean_seconds * (run.total_steps - step),
                step_seconds=seconds,
            )
        )
        if run.examples.validation and _due(step, training.evaluate_every, run.total_steps):
            progress = _evaluate(run, progress)
        if _due(step, training.checkpoint_every, run.total_steps):
            _save(run, progress)
    return Ending.COMPLETE, progress


def _take_step(run: Run, step: int, batch: Batch, rate: float) -> tuple[float, float]:
    """One optimizer step; returns the loss and the gradient's norm before clipping."""
    seed_randomness(run.job.seed, "dropout", step, 0)  # 0: the batch is its only micro-batch
    logits = label_logits(run.model.network, run.model.head, batch)
    loss = mean_loss(logits, batch.targets)
    autograd.backward(loss)
    norm = run.optimizer.clip_gradients()
    value = float(loss.item())
    if not (math.isfinite(value) and math.isfinite(norm)):
        raise TrainingDiverged(step, value, norm)
    run.optimizer.step(rate)
    return value, norm


def _evaluate(run: Run, progress: Progress) -> Progress:
    held_out = run.examples.validation
    result = evaluate(run.model, held_out, run.job.training.batch_size)
    best = _min(progress.best_validation_loss, result.loss)
    run.events.emit(
        Evaluated(
            step=progress.step,
            loss=result.loss,
            token_accuracy=result.token_accuracy,
            examples=len(held_out),
            tokens=result.tokens,
            best_loss=best,
        )
    )
    return replace(progress, validation_loss=result.loss, best_validation_loss=best)


def _save(run: Run, progress: Progress) -> None:
    path = checkpoint_path(run.job.checkpoints_dir, progress.step)
    digest = save_checkpoint(
        path,
        progress,
        run.identity,
        run.environment,
        run.model.trainable_tensors(),
        run.optimizer.state(),
    )
    run.events.emit(CheckpointSaved(progress.step, str(path), digest))


def _due(step: int, every: int, last: int) -> bool:
    return step == last or (every > 0 and step % every == 0)


def _min(best: float | None, value: float) -> float:
    return value if best is None else min(best, value)
