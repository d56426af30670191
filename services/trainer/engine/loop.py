"""The training loop.

A step is a pure function of its number: the plan says which examples it sees, the schedule its
learning rate, the seed its dropout masks. What a step leaves behind is the trainable
parameters, the optimizer's moments and `Progress`, and that is what a checkpoint holds.
"""

import math
from dataclasses import replace
from enum import Enum, auto

from torch import Tensor

from services.trainer.engine.batches import Batch
from services.trainer.engine.checkpoint import (
    Progress,
    checkpoint_path,
    drop_old_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from services.trainer.engine.errors import (
    CheckpointRefused,
    Fault,
    InvalidJob,
    TrainingDiverged,
)
from services.trainer.engine.evaluation import evaluate
from services.trainer.engine.events import (
    CheckpointSaved,
    Evaluated,
    LogLine,
    Sampled,
    StepDone,
)
from services.trainer.engine.loader import Loader, divided
from services.trainer.engine.memory_limit import tighten_memory_limit
from services.trainer.engine.samples import answers
from services.trainer.engine.schedule import learning_rate
from services.trainer.engine.state import Run
from services.trainer.engine.step import take_step


class Ending(Enum):
    COMPLETE = auto()
    STOPPED = auto()
    """On request, after a checkpoint."""


def train(run: Run, progress: Progress) -> tuple[Ending, Progress]:
    """Trains from the step after `progress` to the last, with a checkpoint at the last.

    Raises TrainingDiverged, with the parameters as the step before left them, and OutOfMemory.
    """
    training = run.job.training
    first_step = progress.step
    run.model.network.train()
    if run.model.device.type == "cpu":
        tighten_memory_limit(run.team.size, run.job.threads)
    with _loader(run) as loader:
        while progress.step < run.total_steps and not stalled(run, progress):
            if run.team.leader_says(run.stop.requested):
                _save(run, progress)
                return Ending.STOPPED, progress

            started = run.clock()
            step = progress.step + 1
            rate = learning_rate(step, run.total_steps, training)
            outcome, progress = take_step(run, loader, progress, rate)

            seconds = run.clock() - started
            run.pace.seconds += seconds
            run.pace.tokens += outcome.tokens
            mean_seconds = run.pace.seconds / (step - first_step)
            run.events.emit(
                StepDone(
                    step=step,
                    total_steps=run.total_steps,
                    epoch=run.plan.epochs_done(step),
                    loss=outcome.loss,
                    best_loss=_min(progress.best_loss, outcome.loss),
                    learning_rate=rate,
                    gradient_norm=outcome.gradient_norm,
                    tokens=outcome.tokens,
                    tokens_per_second=outcome.tokens / max(seconds, 1e-9),
                    progress_percent=100 * step / run.total_steps,
                    eta_seconds=mean_seconds * (run.total_steps - step),
                    step_seconds=seconds,
                )
            )
            if run.examples.validation and _due(step, training.evaluate_every, run.total_steps):
                progress = _evaluate(run, progress)
            if _is_worth_keeping(run, progress):
                _save(run, progress)
    return Ending.COMPLETE, progress


def conclude(run: Run, progress: Progress) -> Progress:
    """What belongs to a last step, for a run that has `progress` from a checkpoint and is to do no
    other. Finds its best parameters, should those be of an earlier step.

    Raises InvalidJob if no step was ever done, and TrainingDiverged.
    """
    if progress.step == 0:
        raise InvalidJob(Fault("finish", "no step was done: there is nothing to make a result of"))
    step, every = progress.step, run.job.training.evaluate_every
    if run.examples.validation and not _due(step, every, run.total_steps):
        progress = _evaluate(run, progress)
    if run.best is None and progress.best_step not in (None, step):
        run.best = _best_beside(run, progress)
    return progress


def _best_beside(run: Run, progress: Progress) -> dict[str, Tensor] | None:
    """The parameters of the best step, if a checkpoint of it lies beside the one resumed from."""
    resumed_from, best_step = run.job.resume_from, progress.best_step
    if resumed_from is None or best_step is None:
        return None
    path = checkpoint_path(resumed_from.parent, best_step)
    try:
        return load_checkpoint(path, run.identity).trainable
    except CheckpointRefused as error:
        run.events.emit(LogLine("warning", f"{error}; the result is not the best model"))
        return None


def _loader(run: Run) -> Loader:
    return Loader(
        run.examples.training,
        run.plan,
        run.layout,
        run.model.device,
        run.team,
        prefetch=run.job.switches.prefetch,
    )


def stalled(run: Run, progress: Progress) -> bool:
    """Whether the held-out loss has not fallen for as long as the job has patience."""
    patience = run.job.training.early_stopping_patience
    return 0 < patience <= progress.stalled_evaluations


def _evaluate(run: Run, progress: Progress) -> Progress:
    training, held_out = run.job.training, run.examples.validation
    with run.begun("evaluation"):
        result = evaluate(run.model, run.each(held_out_batches(run, progress)), run.team)
    if not math.isfinite(result.loss):
        rows = [example.row for example in held_out]
        raise TrainingDiverged(progress.step, f"held-out loss {result.loss}", rows)
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
    if training.sample_count and (run.team.rank == 0 or run.team.in_step):
        shown = held_out[: training.sample_count]
        with run.begun("samples"):
            samples = answers(run.model, run.each(shown), run.encoder, training.sample_max_tokens)
        run.events.emit(Sampled(progress.step, samples))
    accuracy = result.token_accuracy
    progress = replace(progress, validation_loss=result.loss, token_accuracy=accuracy)
    if best == progress.best_validation_loss:
        return replace(progress, stalled_evaluations=progress.stalled_evaluations + 1)
    if training.early_stopping_patience:
        run.best = {name: value.clone() for name, value in run.model.trainable_tensors().items()}
    return replace(
        progress,
        best_validation_loss=best,
        best_token_accuracy=accuracy,
        best_step=progress.step,
        stalled_evaluations=0,
    )


def held_out_batches(run: Run, progress: Progress) -> list[Batch]:
    """This process's part of the held-out examples."""
    training = run.job.training
    by_length = sorted(run.examples.validation, key=len)
    limit = progress.micro_batch_tokens or training.batch_tokens
    limit = limit or training.batch_size * max(run.plan.lengths)
    return divided(by_length, run.layout, run.model.device, run.team, limit)


def _is_worth_keeping(run: Run, progress: Progress) -> bool:
    """Also between two checkpoints that were asked for, if no model has been better."""
    every = run.job.training.checkpoint_every
    if stalled(run, progress) or _due(progress.step, every, run.total_steps):
        return True
    return every > 0 and progress.best_step == progress.step


def _save(run: Run, progress: Progress) -> None:
    if run.saved_step == progress.step:
        return
    training, directory = run.job.training, run.job.checkpoints_dir
    path = checkpoint_path(directory, progress.step)
    with run.begun("checkpoint"):
        trainable, moments = run.model.trainable_tensors(), run.optimizer.state()
        run.saved_step = progress.step
        if run.team.rank > 0:
            return
        digest = save_checkpoint(
            path,
            progress,
            run.identity,
            run.environment,
            trainable,
            moments,
            run.best,
        )
    run.events.emit(CheckpointSaved(progress.step, str(path), digest))
    kept, every = training.keep_last_checkpoints, training.keep_checkpoint_every
    drop_old_checkpoints(directory, progress, kept, every)


def _due(step: int, every: int, last: int) -> bool:
    return step == last or (every > 0 and step % every == 0)


def _min(best: float | None, value: float) -> float:
    return value if best is None else min(best, value)
