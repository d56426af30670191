"""The life of a tuning job, without a database."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from services.common.ids import content_id
from services.trainer.control.domain.endings import Cause, Failure, Result, mark_of
from services.trainer.control.domain.errors import BaseModelMismatch, StaleAttempt, WrongState
from services.trainer.control.domain.job import (
    JobSpec,
    ManifestSource,
    TuningJob,
    advance,
)
from services.trainer.control.domain.names import (
    BaseModelName,
    DatasetVersionName,
    ModelName,
    TuningJobName,
    TuningSweepName,
)
from services.trainer.control.domain.progress import (
    Evaluated,
    Progress,
    Remark,
    Started,
    Stepped,
)
from services.trainer.control.domain.settings import JobSettings
from services.trainer.control.domain.states import FINAL, HELD, MOVES, State

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(seconds=5)
RESULT = Result("ab" * 32)
STEP = Stepped(3, 10, 0.3, 1.5, 1.25, 30.0, 1000.0, 7.0)


def job(state: State = State.RUNNING, attempt: int = 1, max_attempts: int = 3) -> TuningJob:
    spec = JobSpec(
        base_model=BaseModelName("tiny-base"),
        base_model_digest="ee" * 32,
        base_model_source=ManifestSource("ee" * 32),
        dataset_version=DatasetVersionName("p", "support", "v-1"),
        dataset_digest="dd" * 32,
        model=ModelName("p", "support"),
        settings=JobSettings.model_validate(
            {"method": {"kind": "lora"}, "max_attempts": max_attempts}
        ),
    )
    return TuningJob(
        name=TuningJobName("p", "j"),
        uid="u",
        spec=spec,
        create_time=NOW,
        update_time=NOW,
        ready_time=NOW,
        state=state,
        attempt=attempt,
        event_count=2,
        lease_expire_time=NOW if state in HELD else None,
    )


def failed(a_job: TuningJob, cause: Cause) -> TuningJob:
    return a_job.ended(Failure(cause, "log"), LATER, timedelta(seconds=1))


@pytest.mark.parametrize("to", State)
@pytest.mark.parametrize("state", State)
def test_a_job_moves_only_as_the_table_allows(state: State, to: State) -> None:
    if to not in MOVES[state]:
        with pytest.raises(WrongState) as refusal:
            advance(job(state), to, LATER)
        assert refusal.value.metadata["state"] == state
        return

    moved = advance(job(state), to, LATER)

    assert (moved.state, moved.update_time, moved.event_count) == (to, LATER, 3)
    assert (moved.end_time == LATER) == (to in FINAL)
    assert moved.lease_expire_time is None or to in HELD


def test_final_states_lead_nowhere_and_every_state_can_be_reached() -> None:
    assert {State.SUCCEEDED, State.FAILED, State.CANCELLED} == FINAL
    assert {to for moves in MOVES.values() for to in moves} == set(State)


@pytest.mark.parametrize(
    ("state", "after"),
    [
        (State.QUEUED, State.CANCELLED),
        (State.RUNNING, State.CANCELLING),
        (State.CANCELLING, State.CANCELLING),
        (State.CANCELLED, State.CANCELLED),
    ],
)
def test_cancel_stops_a_waiting_job_and_asks_a_running_one(state: State, after: State) -> None:
    assert job(state).cancelled(LATER).state is after


@pytest.mark.parametrize("state", [State.SUCCEEDED, State.FAILED])
def test_an_ended_job_can_not_be_cancelled(state: State) -> None:
    with pytest.raises(WrongState):
        job(state).cancelled(LATER)


def test_a_result_names_the_version_after_the_manifest_and_completes_the_progress() -> None:
    done = job().heard(1, STEP, NOW).ended(RESULT, LATER, timedelta())

    assert done.state is State.SUCCEEDED
    assert done.model_version == f"projects/p/models/support/versions/{content_id('ab' * 32)}"
    assert (done.progress.percent, done.progress.eta_s, done.progress.step) == (100.0, 0.0, 3)


def test_the_result_of_a_trial_becomes_a_version_only_when_it_has_won() -> None:
    trial = replace(job(), sweep=TuningSweepName("p", "s"))

    done = trial.ended(RESULT, LATER, timedelta())

    assert (done.state, done.model_version) == (State.SUCCEEDED, "")
    assert done.registered(RESULT) == replace(
        job().ended(RESULT, LATER, timedelta()), sweep=trial.sweep
    )


@pytest.mark.parametrize("ending", [RESULT, *(Failure(cause) for cause in Cause)])
def test_a_job_that_is_cancelling_is_cancelled_however_its_attempt_ends(
    ending: Result | Failure,
) -> None:
    ended = job(State.CANCELLING).ended(ending, LATER, timedelta())

    assert (ended.state, ended.model_version) == (State.CANCELLED, "")


def test_a_result_on_another_base_model_is_refused() -> None:
    with pytest.raises(BaseModelMismatch):
        job().ended(replace(RESULT, base_model_digest="00" * 32), LATER, timedelta())


def test_the_last_allowed_failure_ends_the_job_with_its_cause() -> None:
    once = failed(job(max_attempts=2), Cause.ENGINE_ERROR)
    twice = failed(replace(once, state=State.RUNNING, attempt=2), Cause.OUT_OF_MEMORY)

    assert (once.state, once.failures) == (State.QUEUED, 1)
    assert (twice.state, twice.failures) == (State.FAILED, 2)
    assert twice.error is not None
    assert twice.error.words == "the engine ran out of memory: log"


@pytest.mark.parametrize("cause", [Cause.INVALID_JOB, Cause.DIVERGED])
def test_what_another_attempt_would_not_mend_fails_at_once(cause: Cause) -> None:
    ended = failed(job(), cause)
    assert (ended.state, ended.failures) == (State.FAILED, 1)


def test_a_stopping_node_costs_no_attempt() -> None:
    again = failed(job(max_attempts=1), Cause.NODE_STOPPING)

    assert (again.state, again.failures, again.ready_time) == (State.QUEUED, 0, LATER)


def test_each_failure_waits_twice_as_long_up_to_a_minute() -> None:
    delays: list[float] = []
    current = job(max_attempts=20)
    for _ in range(8):
        current = failed(replace(current, state=State.RUNNING), Cause.ENGINE_KILLED)
        delays.append((current.ready_time - LATER).total_seconds())

    assert delays == [1, 2, 4, 8, 16, 32, 60, 60]


def test_a_lost_node_is_replaced_at_once() -> None:
    assert failed(job(), Cause.LEASE_EXPIRED).ready_time == LATER


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("attempt", [0, 1, 2])
def test_only_the_current_attempt_of_a_held_job_may_write(state: State, attempt: int) -> None:
    if state in HELD and attempt == 1:
        job(state).require_attempt(attempt)
        return
    with pytest.raises(StaleAttempt) as refusal:
        job(state).require_attempt(attempt)
    assert refusal.value.metadata["current_attempt"] == "1"


def test_a_sign_of_life_keeps_the_lease_and_changes_nothing_else() -> None:
    assert job().kept(LATER) == replace(job(), lease_expire_time=LATER)


def test_every_change_of_state_changes_the_etag_and_progress_does_not() -> None:
    running = job()

    assert running.heard(1, STEP, LATER).etag == running.etag
    assert running.cancelled(LATER).etag != running.etag
    assert failed(running, Cause.STORAGE).etag != running.etag


@pytest.mark.parametrize("state", [State.RUNNING, State.CANCELLING])
def test_what_the_current_attempt_tells_is_progress(state: State) -> None:
    heard = job(state).heard(1, STEP, LATER)

    assert (heard.progress.step, heard.progress.percent) == (3, 30.0)
    assert (heard.event_count, heard.attempt_event_count) == (3, 1)
    assert heard.update_time == LATER


def test_what_an_earlier_attempt_tells_is_history_only() -> None:
    heard = job(attempt=2).heard(1, STEP, LATER)

    assert heard.progress == Progress()
    assert (heard.event_count, heard.attempt_event_count) == (3, 0)


def test_what_comes_after_the_attempt_ended_is_history_only() -> None:
    heard = job(State.QUEUED).heard(1, STEP, LATER)

    assert heard.progress == Progress()
    assert (heard.event_count, heard.attempt_event_count) == (3, 1)


def test_progress_goes_back_with_the_checkpoint_and_is_100_only_when_stored() -> None:
    almost = Progress().after(replace(STEP, step=10, percent=100.0)).after(Evaluated(1.0))
    resumed = almost.after(Started(start_step=5, total_steps=10))

    assert almost.percent == 99.9
    assert (resumed.step, resumed.percent, resumed.validation_loss) == (5, 50.0, 1.0)
    assert resumed.after(Remark()) == resumed
    assert Progress().after(Started(0, 0)).percent == 0


Edit = Callable[[Result], Result]


@pytest.mark.parametrize(
    "edit",
    [
        lambda result: replace(result, manifest_digest="cd" * 32),
        lambda result: replace(result, metrics={"loss": 1.0}),
        lambda result: replace(result, code_version="2"),
    ],
)
def test_another_ending_has_another_mark(edit: Edit) -> None:
    assert mark_of(edit(RESULT)) != mark_of(RESULT)
    assert mark_of(replace(RESULT, metrics={"a": 1.0, "b": 2.0})) == mark_of(
        replace(RESULT, metrics={"b": 2.0, "a": 1.0})
    )
