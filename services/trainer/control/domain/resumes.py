"""Certificates that an attempt went on from a checkpoint as if nothing had happened.

The steps between the checkpoint and the end of an earlier attempt are done again. A checkpoint
that holds all that counts makes their losses equal to the last bit.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from services.trainer.control.domain.progress import Resumed, Stepped, Telemetry

KEPT = 20


@dataclass(frozen=True)
class StepLoss:
    """What an attempt told of a step; in nats a labeled token."""

    attempt: int
    step: int
    loss: float


@dataclass(frozen=True)
class ResumeCertificate:
    """That `attempt` went on after `step`. `replayed_steps` counts its steps that an earlier
    attempt told too, `max_loss_difference` is the largest between what the two told of one."""

    attempt: int
    step: int
    checkpoint_digest: str
    restored_digest: str
    exact: bool
    environment_changes: tuple[str, ...] = ()
    replayed_steps: int = 0
    max_loss_difference: float = 0.0

    def with_step(self, new: StepLoss, told: Sequence[StepLoss]) -> "ResumeCertificate":
        """`told` are the losses of the same step that were known before. The result is the same in
        whatever order they came."""
        if new.step <= self.step or new.attempt > self.attempt:
            return self
        before, after = self._differences(told), self._differences([*told, new])
        is_first = bool(after) and not before
        return replace(
            self,
            replayed_steps=self.replayed_steps + is_first,
            max_loss_difference=max([self.max_loss_difference, *after]),
        )

    def _differences(self, told: Sequence[StepLoss]) -> list[float]:
        ours = [one.loss for one in told if one.attempt == self.attempt]
        earlier = [one.loss for one in told if one.attempt < self.attempt]
        return [_difference(one, other) for one in ours for other in earlier]


Resumes = tuple[ResumeCertificate, ...]
"""By attempt."""


def certified(resumes: Resumes, fresh: Sequence[Telemetry], told: Sequence[StepLoss]) -> Resumes:
    """The certificates after the `fresh` events, in their order; the last `KEPT`.

    `told` are the losses of their steps, those of any attempt, that the history has already.
    """
    known = list(told)
    for event in fresh:
        report = event.report
        if isinstance(report, Resumed):
            begun = (*resumes, _begun(event.attempt, report))
            resumes = tuple(sorted(begun, key=lambda one: one.attempt))[-KEPT:]
        elif isinstance(report, Stepped):
            new = StepLoss(event.attempt, report.step, report.loss)
            same = [one for one in known if one.step == new.step]
            resumes = tuple(one.with_step(new, same) for one in resumes)
            known.append(new)
    return resumes


def steps_to_compare(resumes: Resumes, fresh: Sequence[Telemetry]) -> frozenset[int]:
    """The steps whose losses `certified` needs; none where no attempt was resumed."""
    if not resumes and not any(isinstance(event.report, Resumed) for event in fresh):
        return frozenset()
    return frozenset(event.report.step for event in fresh if isinstance(event.report, Stepped))


def _begun(attempt: int, report: Resumed) -> ResumeCertificate:
    return ResumeCertificate(
        attempt=attempt,
        step=report.step,
        checkpoint_digest=report.checkpoint_digest,
        restored_digest=report.restored_digest,
        exact=report.exact,
        environment_changes=report.environment_changes,
    )


def _difference(one: float, other: float) -> float:
    """Infinite where one is not a number and the other is."""
    if one == other or (math.isnan(one) and math.isnan(other)):
        return 0.0
    difference = abs(one - other)
    return math.inf if math.isnan(difference) else difference
