"""One optimizer step, over all processes and within the memory there is."""

import math
from dataclasses import dataclass, replace

import torch
from torch import autograd

from services.trainer.engine.checkpoint import Progress
from services.trainer.engine.determinism import seed_randomness
from services.trainer.engine.errors import TrainingDiverged, is_out_of_memory
from services.trainer.engine.events import Relieved
from services.trainer.engine.fast import summed_cross_entropy
from services.trainer.engine.loader import Loader, Share
from services.trainer.engine.loss import label_logits, selected_logits, summed_loss
from services.trainer.engine.memory import in_words, relieved
from services.trainer.engine.state import Run


@dataclass(frozen=True, slots=True)
class Outcome:
    """`loss` in nats per labeled token, weighted; `tokens` without padding, over all processes."""

    loss: float
    gradient_norm: float
    tokens: int


def take_step(
    run: Run, loader: Loader, progress: Progress, rate: float
) -> tuple[Outcome, Progress]:
    """The step after `progress`, done again with less memory for as long as that runs out.

    Raises TrainingDiverged, with the parameters as they were, and OutOfMemory.
    """
    step = progress.step + 1
    while True:
        computed = _gradients(run, loader, progress)
        if computed is not None:
            break
        run.optimizer.drop_gradients()
        progress = _relieve(run, step, progress)
    loss, tokens = computed
    norm = run.optimizer.clip_gradients()
    if not (math.isfinite(loss) and math.isfinite(norm)):
        found = f"loss {loss} and gradient norm {norm}"
        raise TrainingDiverged(step, found, loader.rows(step))
    run.optimizer.step(rate)
    best = loss if progress.best_loss is None else min(progress.best_loss, loss)
    outcome = Outcome(loss, norm, tokens)
    return outcome, replace(progress, step=step, loss=loss, best_loss=best)


def _gradients(run: Run, loader: Loader, progress: Progress) -> tuple[float, int] | None:
    """Leaves the gradients of the mean loss in the parameters, added up over all processes; gives
    that loss and the step's tokens, or None if memory ran out anywhere."""
    step, share = progress.step + 1, None
    sums = torch.zeros(2, dtype=torch.float64)
    try:
        share = loader.share(step, progress.micro_batch_tokens)
        sums[0] = _accumulate(run, step, share)
    except (RuntimeError, MemoryError) as error:
        if run.team.in_step or not is_out_of_memory(error):
            raise  # those in step wait for this one in the middle of theirs
        sums[1] = 1
    run.team.sum(sums)
    loss_sum, out_of_memory = sums.tolist()
    if share is None or out_of_memory:
        return None
    run.team.sum_gradients(run.model.trainable.values())
    return loss_sum / share.weight, share.tokens


def _accumulate(run: Run, step: int, share: Share) -> float:
    """The summed loss of this process's batches; their gradients are weighted by tokens, and
    by what these weigh, not by batches."""
    model = run.model
    loss_of = summed_cross_entropy if "in_place_loss" in model.gains else summed_loss
    logits_of = label_logits if "labeled_logits" in model.gains else selected_logits
    total = torch.zeros((), device=model.device)
    for index, batch in enumerate(share.batches):
        seed_randomness(run.job.seed, "dropout", step, run.team.rank, index)
        with model.arithmetic():
            logits = logits_of(model.network, model.head, batch)
            loss = loss_of(logits, batch.targets, batch.weights)
        autograd.backward(loss / share.weight)
        total += loss.detach()
        run.goes_on()
    return total.item()


def _relieve(run: Run, step: int, progress: Progress) -> Progress:
    lengths = [run.plan.lengths[i] for i in run.plan.batch(step)]
    mode = run.job.training.gradient_checkpointing
    less = relieved(progress, lengths, run.team.size, mode)
    if less.recompute and not progress.recompute:
        run.model.recompute_activations()
    message = in_words(less)
    run.events.emit(Relieved(step, less.micro_batch_tokens, less.recompute, message))
    return less
