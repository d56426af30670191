"""Where the true win rate lies: a confidence sequence that holds however often one looks.

The hedged betting confidence sequence of I. Waudby-Smith and A. Ramdas, "Estimating means of
bounded random variables by betting", Journal of the Royal Statistical Society B (2023),
arXiv:2010.09686: their hedged capital process with predictable plug-in bets, c = θ = 1/2.

Scores are the per-prompt mean judgements in [0, 1], in the order in which the prompts were first
judged. Nothing else is assumed of them than a common conditional mean.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

METHOD = "hedged_betting"
ALPHA = 0.05

_GRID_STEPS = 1000
_TRUNCATION = 0.5
_HEDGE = 0.5

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """The true mean lies in [`lower`, `upper`] with probability `confidence`, at every look."""

    lower: float
    upper: float
    confidence: float


def confidence_interval(scores: Sequence[float], alpha: float = ALPHA) -> Interval:
    """The means that no bet has refuted so far, to 1/1000 and rounded outwards; without scores
    all of [0, 1].

    What was refuted once stays refuted. Only when that leaves nothing (the mean has moved while
    people voted) does the present evidence speak alone.
    """
    means = np.linspace(0.0, 1.0, _GRID_STEPS + 1)
    lower, upper = 0.0, 1.0
    present = (lower, upper)
    for kept in _log_capital(scores, means, alpha) <= math.log(1 / alpha):
        present = _outline(np.flatnonzero(kept))
        lower, upper = max(lower, present[0]), min(upper, present[1])
    if lower > upper:
        lower, upper = present
    return Interval(lower, upper, 1 - alpha)


def evidence(scores: Sequence[float], mean: float = 0.5, alpha: float = ALPHA) -> Floats:
    """The capital after each score of someone who bets against `mean`, starting from 1; (n,).

    Under a true `mean` it ever exceeds 1/alpha with probability at most alpha (Ville).
    """
    return np.exp(_log_capital(scores, np.array([mean]), alpha)[:, 0])


def _outline(kept: NDArray[np.intp]) -> tuple[float, float]:
    """From the step below the first kept one to the step above the last."""
    if kept.size == 0:
        return 0.0, 1.0
    first, last = int(kept[0]) - 1, int(kept[-1]) + 1
    return max(0, first) / _GRID_STEPS, min(_GRID_STEPS, last) / _GRID_STEPS


def _log_capital(scores: Sequence[float], means: Floats, alpha: float) -> Floats:
    """log K_t(m) for each score t and mean m; (n, means).

    K_t(m) = max(θ ∏(1 + min(λ_i, c/m)(x_i - m)), (1-θ) ∏(1 - min(λ_i, c/(1-m))(x_i - m))).
    """
    x = np.asarray(scores, dtype=np.float64)
    bets = _bets(x, alpha)[:, None]
    with np.errstate(divide="ignore"):  # c/0 = inf: at the ends nothing truncates the bet
        up = np.minimum(bets, _TRUNCATION / means)
        down = np.minimum(bets, _TRUNCATION / (1 - means))
    gains = x[:, None] - means
    rising = np.cumsum(np.log1p(up * gains), axis=0) + math.log(_HEDGE)
    falling = np.cumsum(np.log1p(-down * gains), axis=0) + math.log(1 - _HEDGE)
    return np.maximum(rising, falling)


def _bets(x: Floats, alpha: float) -> Floats:
    """λ_t = √(2 ln(2/α) / (σ̂²_{t-1} t ln(1+t))), which depends on earlier scores only; (n,).

    μ̂_t = (1/2 + Σx_i) / (t+1) and σ̂²_t = (1/4 + Σ(x_i - μ̂_i)²) / (t+1).
    """
    t = np.arange(1, len(x) + 1)
    mean = (0.5 + np.cumsum(x)) / (t + 1)
    variance = (0.25 + np.cumsum((x - mean) ** 2)) / (t + 1)
    before = np.concatenate(([0.25], variance[:-1]))[: len(x)]
    return np.sqrt(2 * math.log(2 / alpha) / (before * t * np.log1p(t)))
