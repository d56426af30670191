"""Attempts and events as rows."""

from collections.abc import Collection, Mapping, Sequence, Set

from sqlalchemy import ColumnElement, Update, bindparam, insert
from sqlmodel import col, select, update

from anneal.trainer.v1.tuning_job_pb2 import TuningJobEvent
from services.common.store import Session, insert_new
from services.trainer.control import to_proto
from services.trainer.control.adapters.rows import attempt, attempt_values
from services.trainer.control.adapters.tables import AttemptRow, EventRow
from services.trainer.control.domain.attempts import Attempt
from services.trainer.control.domain.job import TuningJob
from services.trainer.control.domain.names import TuningJobName
from services.trainer.control.domain.ports import HistoryEntry, Place, StateChange
from services.trainer.control.domain.progress import Stepped, Telemetry
from services.trainer.control.domain.resumes import StepLoss

_FRESH = {"populate_existing": True}
_DIRECT = {"synchronize_session": False}
_ATTEMPTS = AttemptRow.metadata.tables["attempts"]
_CLAIMED_UNDER = select(*_ATTEMPTS.c).where(_ATTEMPTS.c.request_id == bindparam("of"))
_NEW_EVENT = insert(EventRow)


class SqlAttempts:
    """The attempts of one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def add(self, attempt: Attempt) -> bool:
        return await insert_new(self._session, AttemptRow, attempt_values(attempt))

    async def find(self, job: TuningJobName, number: int) -> Attempt | None:
        return await self._one(col(AttemptRow.job) == str(job), col(AttemptRow.number) == number)

    async def of(self, job: TuningJob) -> Attempt:
        found = await self.find(job.name, job.attempt)
        if found is None:
            raise LookupError(f"{job.name} has no row of its attempt {job.attempt}")
        return found

    async def claimed_under(self, request_id: str) -> Attempt | None:
        connection = await self._session.connection()
        row = (await connection.execute(_CLAIMED_UNDER, {"of": request_id})).one_or_none()
        return None if row is None else attempt(row)

    async def release(self, request_id: str) -> None:
        theirs = update(AttemptRow).where(col(AttemptRow.request_id) == request_id)
        await self._session.exec(theirs.values(request_id=None), execution_options=_DIRECT)

    async def all_of(self, job: TuningJobName) -> Sequence[Attempt]:
        wanted = select(AttemptRow).where(col(AttemptRow.job) == str(job))
        rows = await self._session.exec(wanted.order_by(col(AttemptRow.number)))
        return [attempt(row) for row in rows]

    async def tell_start(self, job: TuningJobName, number: int, step: int) -> None:
        row = _row(job, number).values(start_step=step)
        await self._session.exec(row, execution_options=_DIRECT)
        await self.tell_step(job, number, step)

    async def tell_step(self, job: TuningJobName, number: int, step: int) -> None:
        row = _row(job, number).where(col(AttemptRow.step) < step).values(step=step)
        await self._session.exec(row, execution_options=_DIRECT)

    async def end(self, attempt: Attempt) -> None:
        row = _row(attempt.job, attempt.number).values(
            end_time=attempt.end_time,
            outcome=attempt.outcome,
            message=attempt.message,
            mark=attempt.mark,
        )
        await self._session.exec(row, execution_options=_DIRECT)

    async def _one(self, *conditions: ColumnElement[bool]) -> Attempt | None:
        wanted = select(AttemptRow).where(*conditions)
        row = (await self._session.exec(wanted, execution_options=_FRESH)).one_or_none()
        return None if row is None else attempt(row)


class SqlHistory:
    """The events of one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def add_change(self, change: StateChange) -> None:
        job = change.after
        event = {
            "job": str(job.name),
            "sequence": job.event_count,
            "attempt": job.attempt,
            "number": None,
            "step": None,
            "time": job.update_time,
            "payload": to_proto.state_event(change).SerializeToString(),
        }
        await self._add([event])

    async def known(self, job: TuningJobName, places: Sequence[Place]) -> Set[Place]:
        numbers = [number for _, number in places]
        wanted = select(EventRow.attempt, EventRow.number).where(
            col(EventRow.job) == str(job),
            col(EventRow.attempt).in_({attempt for attempt, _ in places}),
            col(EventRow.number).between(min(numbers), max(numbers)),
        )
        rows = await self._session.exec(wanted)
        return {(attempt, number) for attempt, number in rows if number is not None}

    async def losses(self, job: TuningJobName, steps: Collection[int]) -> Sequence[StepLoss]:
        wanted = select(EventRow.attempt, EventRow.payload).where(
            col(EventRow.job) == str(job), col(EventRow.step).in_(steps)
        )
        rows = await self._session.exec(wanted)
        return [_loss(attempt, TuningJobEvent.FromString(payload)) for attempt, payload in rows]

    async def add_telemetry(self, told: Sequence[Telemetry], sequence: int) -> None:
        rows = [_values(event, place) for place, event in enumerate(told, sequence)]
        await self._add(rows)

    async def after(self, job: TuningJobName, sequence: int, limit: int) -> Sequence[HistoryEntry]:
        wanted = (
            select(EventRow.sequence, EventRow.payload)
            .where(col(EventRow.job) == str(job), col(EventRow.sequence) > sequence)
            .order_by(col(EventRow.sequence))
            .limit(limit)
        )
        return [HistoryEntry(*row) for row in await self._session.exec(wanted)]

    async def _add(self, rows: Sequence[Mapping[str, object]]) -> None:
        connection = await self._session.connection()
        await connection.execute(_NEW_EVENT, rows)


def _values(told: Telemetry, sequence: int) -> dict[str, object]:
    return {
        "job": str(told.job),
        "sequence": sequence,
        "attempt": told.attempt,
        "number": told.number,
        "step": told.report.step if isinstance(told.report, Stepped) else None,
        "time": told.time,
        "payload": told.payload,
    }


def _loss(attempt: int, event: TuningJobEvent) -> StepLoss:
    return StepLoss(attempt, event.step.step, event.step.loss)


def _row(job: TuningJobName, number: int) -> Update:
    return update(AttemptRow).where(
        col(AttemptRow.job) == str(job), col(AttemptRow.number) == number
    )
