"""The learning rate as a function of the step."""

import math
from typing import assert_never

from services.trainer.engine.job import Training


def learning_rate(step: int, total_steps: int, training: Training) -> float:
    """The rate of `step` (1 … total_steps): a linear rise over the warm-up, then the schedule.

    Cosine and linear fall from the full rate at the first step after the warm-up towards 0,
    which they would reach one step after the last.
    """
    peak, warmup = training.learning_rate, training.warmup_steps
    if step <= warmup:
        return peak * step / warmup
    progress = (step - 1 - warmup) / (total_steps - warmup)
    match training.schedule:
        case "constant":
            return peak
        case "linear":
            return peak * (1 - progress)
        case "cosine":
            return peak * (1 + math.cos(math.pi * progress)) / 2
        case _:
            assert_never(training.schedule)
