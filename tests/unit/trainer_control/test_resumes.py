"""What certificates of resumed attempts say."""

import itertools
import math
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from services.trainer.control.domain.names import TuningJobName
from services.trainer.control.domain.progress import Evaluated, Report, Resumed, Stepped, Telemetry
from services.trainer.control.domain.resumes import (
    KEPT,
    ResumeCertificate,
    StepLoss,
    certified,
    steps_to_compare,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RESUMED = Resumed(50, "ab", "ab", exact=True)
CERTIFICATE = ResumeCertificate(2, 50, "ab", "ab", exact=True)


def told(attempt: int, report: Report) -> Telemetry:
    return Telemetry(TuningJobName("p", "j"), attempt, 1, NOW, report, b"")


def step(attempt: int, number: int, loss: float) -> Telemetry:
    return told(attempt, Stepped(number, 100, 0.5, loss, loss, 1.0, 1.0, 1.0))


def figures(certificate: ResumeCertificate) -> tuple[int, float]:
    return certificate.replayed_steps, certificate.max_loss_difference


def test_a_resumption_begins_a_certificate_of_no_step() -> None:
    resumed = replace(RESUMED, restored_digest="cd", exact=False, environment_changes=("a", "b"))

    (begun,) = certified((), [told(2, resumed)], ())

    assert begun == ResumeCertificate(
        2, 50, "ab", "cd", exact=False, environment_changes=("a", "b")
    )
    assert figures(begun) == (0, 0.0)


def test_steps_that_were_told_before_are_counted_and_compared() -> None:
    before = [StepLoss(1, 51, 1.5), StepLoss(1, 52, 1.25)]
    again = [told(2, RESUMED), step(2, 51, 1.5), step(2, 52, 1.0), step(2, 53, 9.0)]

    (certificate,) = certified((), again, before)

    assert figures(certificate) == (2, 0.25)


def test_the_checkpoint_s_own_steps_and_other_events_count_nothing() -> None:
    events = [step(2, 50, 9.0), told(2, Evaluated(9.0))]
    assert certified((CERTIFICATE,), events, [StepLoss(1, 50, 1.0)]) == (CERTIFICATE,)


def test_a_step_that_several_attempts_had_told_counts_once_and_is_held_to_all() -> None:
    before = [StepLoss(1, 51, 1.0), StepLoss(2, 51, 1.5)]
    third = replace(CERTIFICATE, attempt=3)

    after = certified((CERTIFICATE, third), [step(3, 51, 1.0)], before)

    assert [figures(one) for one in after] == [(0, 0.0), (1, 0.5)]


def test_the_order_in_which_the_losses_come_changes_nothing() -> None:
    events = [step(1, 51, 1.0), step(2, 51, 1.25), step(3, 51, 1.0), step(2, 52, 1.0)]
    both = (CERTIFICATE, replace(CERTIFICATE, attempt=3))
    for order in itertools.permutations(events):
        for cut in range(len(order) + 1):
            first = certified(both, order[:cut], ())
            known = [StepLoss(e.attempt, e.report.step, e.report.loss) for e in order[:cut]]
            after = certified(first, order[cut:], known)
            assert [figures(one) for one in after] == [(1, 0.25), (1, 0.25)]


@pytest.mark.parametrize(
    ("one", "other", "difference"),
    [
        (math.nan, math.nan, 0.0),
        (math.nan, 1.0, math.inf),
        (math.inf, math.inf, 0.0),
        (math.inf, -math.inf, math.inf),
        (0.0, -0.0, 0.0),
    ],
)
def test_losses_that_are_not_numbers_are_equal_or_far_apart(
    one: float, other: float, difference: float
) -> None:
    (certificate,) = certified((CERTIFICATE,), [step(2, 51, one)], [StepLoss(1, 51, other)])
    assert figures(certificate) == (1, difference)


def test_the_last_certificates_are_kept_by_attempt() -> None:
    attempts = [*range(2, KEPT + 4), 1]
    kept = certified((), [told(attempt, RESUMED) for attempt in attempts], ())
    assert [one.attempt for one in kept] == list(range(4, KEPT + 4))


def test_a_job_that_was_never_resumed_compares_nothing() -> None:
    events = [step(1, 51, 1.0), step(2, 52, 1.0)]

    assert steps_to_compare((), events) == frozenset()
    assert steps_to_compare((CERTIFICATE,), events) == {51, 52}
    assert steps_to_compare((), [told(2, RESUMED), *events]) == {51, 52}
