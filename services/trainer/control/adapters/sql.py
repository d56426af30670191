"""The trainer's unit of work over SQLite or PostgreSQL."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import event

from services.common.outbox import Outbox
from services.common.requests import Requests
from services.common.store import Session, database_now
from services.trainer.control.adapters.checkpoints import SqlCheckpoints
from services.trainer.control.adapters.histories import SqlAttempts, SqlHistory
from services.trainer.control.adapters.jobs import SqlJobs
from services.trainer.control.adapters.news import OutboxNews
from services.trainer.control.adapters.nodes import SqlNodes, SqlResiduals
from services.trainer.control.adapters.queue import SqlQueue
from services.trainer.control.adapters.sweeps import SqlSweeps
from services.trainer.control.domain.job import TuningJob
from services.trainer.control.domain.signals import Signals

Now = Callable[[Session], Awaitable[datetime]]


@dataclass(frozen=True)
class TrainerTables:
    """All tables in one transaction."""

    jobs: SqlJobs
    queue: SqlQueue
    sweeps: SqlSweeps
    attempts: SqlAttempts
    checkpoints: SqlCheckpoints
    history: SqlHistory
    news: OutboxNews
    nodes: SqlNodes
    residuals: SqlResiduals
    requests: Requests
    session: Session
    signals: Signals
    clock: Now

    async def now(self) -> datetime:
        return await self.clock(self.session)

    def announce(self, job: TuningJob) -> None:
        def committed(_: object) -> None:
            self.signals.job_committed(job)

        event.listen(self.session.sync_session, "after_commit", committed, once=True)


def trainer_tables(signals: Signals, now: Now = database_now) -> Callable[[Session], TrainerTables]:
    """What a Store builds its units with. `now` is another than the database's clock in tests."""

    def tables(session: Session) -> TrainerTables:
        return TrainerTables(
            jobs=SqlJobs(session),
            queue=SqlQueue(session),
            sweeps=SqlSweeps(session),
            attempts=SqlAttempts(session),
            checkpoints=SqlCheckpoints(session),
            history=SqlHistory(session),
            news=OutboxNews(Outbox(session)),
            nodes=SqlNodes(session),
            residuals=SqlResiduals(session),
            requests=Requests(session),
            session=session,
            signals=signals,
            clock=now,
        )

    return tables
