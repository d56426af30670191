"""A search by successive halving (arXiv:1502.07943), and every way in which it goes on.

All candidates are trained for a few steps, the better share of them anew for more, until one is
left. As in `job`, all changes are pure.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from uuid import UUID, uuid5

from services.common.etags import etag
from services.trainer.control.domain.endings import Result
from services.trainer.control.domain.errors import WrongState
from services.trainer.control.domain.job import JobSpec, TuningJob
from services.trainer.control.domain.names import TuningJobName, TuningSweepName

TRIAL_PREFIX = "trial-"
"""How the ids of trials' jobs begin, and no other job's."""

_CAUSES_TOLD = 4
_CAUSE_CHARACTERS = 500


class SweepState(StrEnum):
    """The states of a sweep."""

    RUNNING = "RUNNING"  # trials are queued or run
    SUCCEEDED = "SUCCEEDED"  # a winner was found
    FAILED = "FAILED"  # no trial of a rung gave a held-out loss
    CANCELLED = "CANCELLED"


SWEEP_MOVES: Mapping[SweepState, frozenset[SweepState]] = {
    SweepState.RUNNING: frozenset({SweepState.SUCCEEDED, SweepState.FAILED, SweepState.CANCELLED}),
    SweepState.SUCCEEDED: frozenset(),
    SweepState.FAILED: frozenset(),
    SweepState.CANCELLED: frozenset(),
}


@dataclass(frozen=True)
class Candidate:
    """What a trial tries. `rank` 0: the method has none."""

    learning_rate: float
    rank: int = 0


@dataclass(frozen=True)
class Scored:
    """A trial gave a result with a held-out `loss`, finite, in nats a labeled token."""

    loss: float
    result: Result


@dataclass(frozen=True)
class Unscored:
    """A trial ended without one, and why."""

    cause: str


Outcome = Scored | Unscored


@dataclass(frozen=True)
class Trial:
    """A candidate at a rung, which counts from 1: a job of so many steps."""

    job: TuningJobName
    uid: str
    rung: int
    candidate: Candidate
    steps: int
    outcome: Outcome | None = None

    @property
    def loss(self) -> float | None:
        return self.outcome.loss if isinstance(self.outcome, Scored) else None


@dataclass(frozen=True)
class SweepSpec:
    """What is looked for, resolved when the sweep is created. `job` is the one whose learning rate
    and rank are looked for; `ranks` is empty where its method has none."""

    job: JobSpec
    learning_rates: tuple[float, ...]
    ranks: tuple[int, ...]
    reduction: int
    first_rung_steps: int

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        ranks = self.ranks or (0,)
        return tuple(Candidate(rate, rank) for rate in self.learning_rates for rank in ranks)

    @property
    def last_rung_steps(self) -> int:
        return self.job.settings.training.max_steps

    def trained_by(self, trial: Trial) -> JobSpec:
        """The job's spec with the trial's learning rate, rank and steps. The warm-up keeps its
        share of the steps."""
        settings = self.job.settings
        warmup_steps = settings.training.warmup_steps * trial.steps // self.last_rung_steps
        training = settings.training.model_copy(
            update={
                "learning_rate": trial.candidate.learning_rate,
                "max_steps": trial.steps,
                "warmup_steps": warmup_steps,
            }
        )
        rank = {"rank": trial.candidate.rank} if self.ranks else {}
        method = settings.method.model_copy(update=rank)
        changed = {"training": training, "method": method}
        return replace(self.job, settings=settings.model_copy(update=changed))


@dataclass(frozen=True)
class Sweep:
    """A sweep as it stands, with all its trials so far, by rung."""

    name: TuningSweepName
    uid: str
    spec: SweepSpec
    create_time: datetime
    state: SweepState = SweepState.RUNNING
    trials: tuple[Trial, ...] = ()
    winner: TuningJobName | None = None
    model_version: str = ""
    error: str = ""
    end_time: datetime | None = None

    @property
    def etag(self) -> str:
        ended = sum(trial.outcome is not None for trial in self.trials)
        return etag(self.uid, self.state, len(self.trials), ended)

    @property
    def winning_result(self) -> Result | None:
        """None unless there is a winner."""
        for trial in self.trials:
            if trial.job == self.winner and isinstance(trial.outcome, Scored):
                return trial.outcome.result
        return None

    def begun(self) -> "Sweep":
        """With the trials of the first rung."""
        return self._with_rung(1, self.spec.candidates, self.spec.first_rung_steps)

    def job_of(self, trial: Trial, now: datetime) -> TuningJob:
        """The trial's job, new in the queue."""
        return TuningJob(
            name=trial.job,
            uid=trial.uid,
            spec=self.spec.trained_by(trial),
            sweep=self.name,
            create_time=now,
            update_time=now,
            ready_time=now,
            event_count=1,  # the first is its way into the queue
        )

    def heard(self, job: TuningJobName, outcome: Outcome, now: datetime) -> "Sweep":
        """A trial has ended. If it was the last of its rung, there are trials of the next one, or
        the sweep has ended too."""
        trials = tuple(
            replace(trial, outcome=outcome) if trial.job == job else trial for trial in self.trials
        )
        heard = replace(self, trials=trials)
        rung = [trial for trial in trials if trial.rung == trials[-1].rung]
        if any(trial.outcome is None for trial in rung):
            return heard
        return heard._decided(rung, now)

    def with_other_ids(self, taken: Collection[TuningJobName]) -> "Sweep":
        """The trials that have a name in `taken` get others."""
        trials = tuple(_renamed(trial) if trial.job in taken else trial for trial in self.trials)
        return replace(self, trials=trials)

    def cancelled(self, now: datetime) -> "Sweep":
        """Raises WrongState."""
        if self.state is SweepState.CANCELLED:
            return self
        return _advance(self, SweepState.CANCELLED, now)

    def _decided(self, rung: Sequence[Trial], now: datetime) -> "Sweep":
        """What follows from a whole rung."""
        best = ranked(rung)
        if not best:
            return replace(_advance(self, SweepState.FAILED, now), error=_failure_words(rung))
        if rung[0].steps >= self.spec.last_rung_steps:
            return self._won_by(*best[0], now)
        kept = best[: share(len(rung), self.spec.reduction)]
        candidates = [trial.candidate for trial, _ in kept]
        return self._with_rung(rung[0].rung + 1, candidates, rung[0].steps * self.spec.reduction)

    def _won_by(self, trial: Trial, scored: Scored, now: datetime) -> "Sweep":
        return replace(
            _advance(self, SweepState.SUCCEEDED, now),
            winner=trial.job,
            model_version=self.spec.job.version_of(scored.result),
        )

    def _with_rung(self, rung: int, candidates: Sequence[Candidate], steps: int) -> "Sweep":
        """A candidate that is alone has nobody to be compared with: it gets all steps at once."""
        most = self.spec.last_rung_steps
        steps = most if len(candidates) == 1 else min(steps, most)
        new = tuple(
            self._trial(rung, place, candidate, steps)
            for place, candidate in enumerate(candidates, 1)
        )
        return replace(self, trials=self.trials + new)

    def _trial(self, rung: int, place: int, candidate: Candidate, steps: int) -> Trial:
        """Its ids come from the sweep's, which is random."""
        uid = str(uuid5(UUID(self.uid), f"{rung}/{place}"))
        job = _job_name(self.name.project, f"{TRIAL_PREFIX}{rung}-{place}", uid)
        return Trial(job, uid, rung, candidate, steps)


def share(count: int, reduction: int) -> int:
    """How many of `count` trials of a rung go on: ⌈count / reduction⌉."""
    return -(-count // reduction)


def ranked(trials: Sequence[Trial]) -> list[tuple[Trial, Scored]]:
    """Those with a loss, the lowest first; of equal ones that which was made first."""
    scored = [(trial, trial.outcome) for trial in trials if isinstance(trial.outcome, Scored)]
    return sorted(scored, key=lambda one: one[1].loss)


def steps_until_one_is_left(candidates: int, reduction: int, last_rung_steps: int) -> int:
    """The steps of the first rung with which one trial is left for the last; at least 1."""
    steps = last_rung_steps
    while candidates > 1:
        candidates, steps = share(candidates, reduction), steps // reduction
    return max(1, steps)


def _advance(sweep: Sweep, to: SweepState, now: datetime) -> Sweep:
    """The one way to another state; all but RUNNING are final. Raises WrongState."""
    if to not in SWEEP_MOVES[sweep.state]:
        raise WrongState(sweep.name, sweep.state, to)
    return replace(sweep, state=to, end_time=now)


def _renamed(trial: Trial) -> Trial:
    uid = str(uuid5(UUID(trial.uid), "another"))
    stem, _, _ = trial.job.tuning_job.rpartition("-")
    return replace(trial, job=_job_name(trial.job.project, stem, uid), uid=uid)


def _job_name(project: str, stem: str, uid: str) -> TuningJobName:
    return TuningJobName(project, f"{stem}-{uid[-12:]}")


def _failure_words(rung: Sequence[Trial]) -> str:
    """Why no trial has a loss: each cause once, with how many trials ended by it."""
    causes: dict[str, int] = {}
    for trial in rung:
        if isinstance(trial.outcome, Unscored):
            cause = trial.outcome.cause[:_CAUSE_CHARACTERS]
            causes[cause] = causes.get(cause, 0) + 1
    told = [f"{cause} ({_trials(count)})" for cause, count in causes.items()]
    more = [f"and {len(told) - _CAUSES_TOLD} causes more"] if len(told) > _CAUSES_TOLD else []
    words = "; ".join([*told[:_CAUSES_TOLD], *more])
    return f"no trial of rung {rung[0].rung} gave a held-out loss: {words}"


def _trials(count: int) -> str:
    return "1 trial" if count == 1 else f"{count} trials"
