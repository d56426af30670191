"""Successive halving, without a database: whatever the trials say, and in whatever order."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.ids import content_id
from services.trainer.control.domain.endings import Cause, Failure, Result
from services.trainer.control.domain.errors import WrongState
from services.trainer.control.domain.names import TuningJobName, TuningSweepName
from services.trainer.control.domain.settings import JobSettings
from services.trainer.control.domain.states import State
from services.trainer.control.domain.sweeps.sweep import (
    Outcome,
    Scored,
    Sweep,
    SweepSpec,
    SweepState,
    Trial,
    Unscored,
    steps_until_one_is_left,
)
from services.trainer.control.domain.sweeps.trials import outcome_of
from services.trainer.control.domain.sweeps.tuning_sweeps import MAX_PAGE_SIZE, SweepView
from services.trainer.control.sweep_to_proto import tuning_sweep
from tests.unit.trainer_control.test_jobs import job

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)


def result(digest: str = "ab", **metrics: float) -> Result:
    return Result(digest * 32, metrics=metrics)


def sweep(
    rates: int, ranks: int = 0, reduction: int = 3, first: int = 1, last: int = 9, warmup: int = 0
) -> Sweep:
    """With the trials of its first rung."""
    spec = replace(
        job().spec,
        settings=JobSettings.model_validate(
            {
                "method": {"kind": "lora", "rank": 5, "alpha": 7.0},
                "training": {"max_steps": last, "warmup_steps": warmup, "learning_rate": 0.5},
                "seed": 11,
                "labels": {"team": "support"},
            }
        ),
    )
    search = SweepSpec(
        job=spec,
        learning_rates=tuple(0.001 * (place + 1) for place in range(rates)),
        ranks=tuple(2 * (place + 1) for place in range(ranks)),
        reduction=reduction,
        first_rung_steps=first,
    )
    name = TuningSweepName("p", "s")
    return Sweep(name, "c0ffee00-0000-4000-8000-000000000000", search, NOW).begun()


def open_trials(one: Sweep) -> list[Trial]:
    return [trial for trial in one.trials if trial.outcome is None]


def rung_of(one: Sweep, number: int) -> list[Trial]:
    return [trial for trial in one.trials if trial.rung == number]


def shape(one: Sweep) -> list[tuple[int, int]]:
    """By rung, how many trials of how many steps."""
    last = one.trials[-1].rung
    rungs = [rung_of(one, number) for number in range(1, last + 1)]
    return [(len(rung), rung[0].steps) for rung in rungs]


def heard(one: Sweep, *outcomes: Outcome) -> Sweep:
    """The open trials end so, in the order of their making."""
    for trial, outcome in zip(open_trials(one), outcomes, strict=True):
        one = one.heard(trial.job, outcome, LATER)
    return one


def scored(*losses: float) -> list[Outcome]:
    return [Scored(loss, result(f"{place:02x}")) for place, loss in enumerate(losses)]


FAILED = Unscored("the engine failed")


def test_nine_candidates_become_three_and_one() -> None:
    one = sweep(9)
    assert shape(one) == [(9, 1)]

    one = heard(one, *scored(9, 8, 7, 6, 5, 4, 3, 2, 1))
    assert shape(one) == [(9, 1), (3, 3)]
    assert [trial.candidate for trial in rung_of(one, 2)] == [
        trial.candidate for trial in (one.trials[8], one.trials[7], one.trials[6])
    ]

    one = heard(one, *scored(3, 1, 2))
    assert shape(one) == [(9, 1), (3, 3), (1, 9)]
    assert one.trials[-1].candidate == one.trials[7].candidate

    one = heard(one, *scored(0.5))
    assert (one.state, one.winner) == (SweepState.SUCCEEDED, one.trials[-1].job)
    assert one.end_time == LATER


def test_a_rung_goes_on_only_when_its_last_trial_has_ended() -> None:
    one = sweep(3)
    for trial, outcome in zip(one.trials[:2], scored(2, 1), strict=True):
        one = one.heard(trial.job, outcome, NOW)
        assert shape(one) == [(3, 1)]

    assert shape(one.heard(one.trials[2].job, FAILED, NOW)) == [(3, 1), (1, 9)]


def test_a_trial_without_a_loss_counts_as_the_worst() -> None:
    one = heard(sweep(4, reduction=2), FAILED, *scored(7), FAILED, *scored(5))

    assert [trial.candidate for trial in rung_of(one, 2)] == [
        one.trials[3].candidate,
        one.trials[1].candidate,
    ]


def test_a_trial_that_is_left_alone_gets_all_steps_at_once() -> None:
    one = heard(sweep(9, last=900), *[FAILED] * 8, *scored(5))

    assert shape(one) == [(9, 1), (1, 900)]


def test_one_candidate_is_trained_once_and_wholly() -> None:
    assert shape(sweep(1, first=2, last=50)) == [(1, 50)]


def test_a_first_rung_of_all_steps_is_the_last_and_its_best_wins() -> None:
    one = sweep(3, first=9)
    one = one.heard(one.trials[1].job, Scored(1.0, result("cd")), NOW)
    one = heard(one, FAILED, *scored(2))

    assert (one.state, one.winner) == (SweepState.SUCCEEDED, one.trials[1].job)
    assert one.winning_result == result("cd")
    assert one.model_version == f"projects/p/models/support/versions/{content_id('cd' * 32)}"


def test_of_equal_losses_the_first_candidate_goes_on() -> None:
    one = heard(sweep(3), *scored(1, 1, 1))

    assert one.trials[3].candidate == one.trials[0].candidate


def test_a_rung_without_any_loss_fails_the_sweep_with_the_causes() -> None:
    one = heard(sweep(3), FAILED, Unscored("it was cancelled"), FAILED)

    assert (one.state, one.winner, one.end_time) == (SweepState.FAILED, None, LATER)
    assert one.error == (
        "no trial of rung 1 gave a held-out loss: "
        "the engine failed (2 trials); it was cancelled (1 trial)"
    )


def test_many_causes_are_told_in_few_words() -> None:
    one = heard(sweep(9), *(Unscored(f"{place}" * 9000) for place in range(9)))

    assert one.error.endswith("; and 5 causes more")
    assert len(one.error) < 4000


def test_a_trial_is_the_job_with_its_own_rate_rank_and_steps() -> None:
    one = sweep(2, ranks=2, first=10, last=100, warmup=25)

    specs = [one.spec.trained_by(trial) for trial in one.trials]

    told = [(spec.settings.training.learning_rate, spec.settings.method) for spec in specs]
    assert [rate for rate, _ in told] == [0.001, 0.001, 0.002, 0.002]
    assert [method.model_dump()["rank"] for _, method in told] == [2, 4, 2, 4]
    for spec in specs:
        training = spec.settings.training
        assert (training.max_steps, training.warmup_steps) == (10, 2)
        assert replace(spec, settings=one.spec.job.settings) == one.spec.job
        assert (spec.settings.seed, spec.settings.labels) == (11, {"team": "support"})
        assert spec.settings.method.model_dump()["alpha"] == 7.0


def test_the_last_rung_trains_exactly_the_job_that_was_asked_for() -> None:
    one = sweep(1, last=100, warmup=25)

    training = one.spec.trained_by(one.trials[0]).settings.training

    assert (training.max_steps, training.warmup_steps) == (100, 25)


def test_trials_have_names_and_uids_of_their_own_that_the_sweep_decides() -> None:
    one = heard(sweep(9), *scored(*range(9)))

    assert len({trial.job for trial in one.trials}) == 12
    assert len({trial.uid for trial in one.trials}) == 12
    assert heard(sweep(9), *scored(*range(9))) == one
    queued = one.job_of(one.trials[-1], LATER)
    assert (queued.name, queued.uid, queued.sweep) == (
        one.trials[-1].job,
        one.trials[-1].uid,
        one.name,
    )
    assert (queued.state, queued.ready_time) == (State.QUEUED, LATER)


def test_trials_whose_names_are_taken_get_others_and_the_rest_keep_theirs() -> None:
    begun = sweep(3)
    first, second, third = begun.trials

    one = begun.with_other_ids({second.job})

    moved = one.trials[1]
    assert one == replace(begun, trials=(first, moved, third))
    assert moved == replace(second, job=moved.job, uid=moved.uid)
    assert moved.job.tuning_job.startswith("trial-1-2-")
    again = one.with_other_ids({second.job, moved.job}).trials[1]
    assert len({second.job, moved.job, again.job}) == 3
    assert len({second.uid, moved.uid, again.uid}) == 3


def test_a_page_of_the_largest_sweeps_fits_into_a_message() -> None:
    one = sweep(16, ranks=8, reduction=2, first=1, last=1_000_000)
    while one.state is SweepState.RUNNING:
        one = heard(one, *scored(*map(float, range(len(open_trials(one))))))
    trials = [
        replace(trial, job=TuningJobName("p" * 63, trial.job.tuning_job)) for trial in one.trials
    ]
    states = {trial.job: State.SUCCEEDED for trial in trials}

    message = tuning_sweep(SweepView(replace(one, trials=tuple(trials)), states))

    assert len(message.trials) == 255
    most_of_the_rest = 30_000  # its job's labels and target modules, the causes of a failure
    assert MAX_PAGE_SIZE * (message.ByteSize() + most_of_the_rest) < 4 * 2**20


@pytest.mark.parametrize(
    ("candidates", "reduction", "last", "first"),
    [(5, 3, 900, 100), (9, 3, 900, 100), (1, 3, 900, 900), (10, 3, 900, 33), (128, 2, 100, 1)],
)
def test_the_default_first_rung_leaves_one_trial_for_the_last(
    candidates: int, reduction: int, last: int, first: int
) -> None:
    assert steps_until_one_is_left(candidates, reduction, last) == first


def test_a_cancelled_sweep_stays_so_and_an_ended_one_can_not_be_cancelled() -> None:
    cancelled = sweep(3).cancelled(LATER)

    assert (cancelled.state, cancelled.end_time) == (SweepState.CANCELLED, LATER)
    assert cancelled.cancelled(NOW) is cancelled
    with pytest.raises(WrongState):
        heard(sweep(1), FAILED).cancelled(LATER)


def test_every_change_of_a_sweep_changes_its_etag() -> None:
    begun = sweep(3)
    seen = [begun.etag, begun.cancelled(LATER).etag]
    for trial in begun.trials:
        begun = begun.heard(trial.job, FAILED, NOW)
        seen.append(begun.etag)

    assert len(set(seen)) == len(seen)


def test_a_loss_is_the_one_that_came_with_the_result() -> None:
    done = replace(job(State.SUCCEEDED), progress=replace(job().progress, validation_loss=3.0))
    told = result(validation_loss=2.0)

    assert outcome_of(done, told) == Scored(2.0, told)
    assert outcome_of(done, result()) == Scored(3.0, result())


@pytest.mark.parametrize(
    ("state", "ending", "words"),
    [
        (State.FAILED, Failure(Cause.DIVERGED, "at step 3"), "the training diverged: at step 3"),
        (State.CANCELLED, None, "it was cancelled"),
        (State.CANCELLED, result(validation_loss=1.0), "it was cancelled"),
        (State.SUCCEEDED, result(), "it has no held-out loss"),
        (State.SUCCEEDED, result(validation_loss=float("nan")), "it has no held-out loss"),
    ],
)
def test_what_gives_no_loss_says_why(
    state: State, ending: Result | Failure | None, words: str
) -> None:
    outcome = outcome_of(job(state), ending)

    assert isinstance(outcome, Unscored)
    assert outcome.cause.startswith(words)


def planned_steps(one: Sweep) -> int:
    """Of all trials if none failed; failures only leave trials out."""
    spec = one.spec
    count, steps, total = len(spec.candidates), spec.first_rung_steps, 0
    while count > 1 and steps < spec.last_rung_steps:
        total += count * steps
        count, steps = ceil(count / spec.reduction), steps * spec.reduction
    return total + count * spec.last_rung_steps


OUTCOMES = st.one_of(
    st.floats(0, 20).map(lambda loss: Scored(loss, result())),
    st.integers(0, 3).map(lambda loss: Scored(float(loss), result())),
    st.just(FAILED),
)


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_whatever_the_trials_say_the_best_of_each_rung_go_on_and_one_wins(
    data: st.DataObject,
) -> None:
    last = data.draw(st.integers(1, 200))
    one = sweep(
        rates=data.draw(st.integers(1, 8)),
        ranks=data.draw(st.integers(0, 3)),
        reduction=data.draw(st.integers(2, 8)),
        first=data.draw(st.integers(1, last)),
        last=last,
    )
    planned = planned_steps(one)

    while one.state is SweepState.RUNNING:
        trial = data.draw(st.sampled_from(open_trials(one)))
        outcome = data.draw(OUTCOMES)
        before, one = one, one.heard(trial.job, outcome, LATER)
        ended = tuple(
            replace(other, outcome=outcome) if other.job == trial.job else other
            for other in before.trials
        )
        assert one.trials[: len(ended)] == ended, "a trial was changed by the end of another"
        _check_step(before, one)

    assert not open_trials(one)
    assert sum(trial.steps for trial in one.trials) <= planned
    _check_end(one)


def _check_step(before: Sweep, after: Sweep) -> None:
    """A rung is begun by the last end of the one before, with the best of it."""
    rung = rung_of(after, before.trials[-1].rung)
    new = after.trials[len(before.trials) :]
    whole = all(trial.outcome is not None for trial in rung)
    if not whole:
        assert not new
        assert after.state is SweepState.RUNNING
        return
    losses = {trial.candidate: trial.loss for trial in rung if trial.loss is not None}
    if not losses or rung[0].steps == after.spec.last_rung_steps:
        assert not new
        assert after.state is not SweepState.RUNNING
        return
    kept = {trial.candidate for trial in new}
    assert len(new) == len(kept) == min(ceil(len(rung) / after.spec.reduction), len(losses))
    worst_kept = max(losses[candidate] for candidate in kept)
    left = [loss for candidate, loss in losses.items() if candidate not in kept]
    assert all(worst_kept <= loss for loss in left)
    expected = min(rung[0].steps * after.spec.reduction, after.spec.last_rung_steps)
    steps = after.spec.last_rung_steps if len(new) == 1 else expected
    assert {(trial.rung, trial.steps) for trial in new} == {(rung[0].rung + 1, steps)}


def _check_end(one: Sweep) -> None:
    rung = rung_of(one, one.trials[-1].rung)
    losses = [trial.loss for trial in rung if trial.loss is not None]
    if not losses:
        assert (one.state, one.winner, one.model_version) == (SweepState.FAILED, None, "")
        assert one.winning_result is None
        assert one.error
        return
    assert one.state is SweepState.SUCCEEDED
    (won,) = [trial for trial in one.trials if trial.job == one.winner]
    assert won in rung
    assert (won.steps, won.loss) == (one.spec.last_rung_steps, min(losses))
    assert one.winning_result is not None
    assert one.model_version
