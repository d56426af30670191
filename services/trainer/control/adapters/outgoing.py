"""What is recorded for others in the transaction of a change: news, and answers to repeats."""

from sqlmodel import col, select

from services.common.outbox import Outbox
from services.common.requests import RequestKey, Requests
from services.common.store import Session
from services.common.tables import RequestRow
from services.trainer.control import to_proto
from services.trainer.control.domain.endings import Result
from services.trainer.control.domain.job import TuningJob
from services.trainer.control.domain.names import TuningJobName
from services.trainer.control.domain.ports import Request, StateChange

SUCCEEDED = "anneal.jobs.succeeded"
_METHOD = "CreateTuningJob"


class OutboxNews:
    """News of jobs, published once the transaction has committed."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    async def job_changed(self, change: StateChange) -> None:
        job = change.after
        event = to_proto.state_event(change)
        event.sequence = job.event_count
        await self._outbox.add(
            f"{job.name}:{job.attempt}:{job.state}",
            f"anneal.jobs.{job.name.project}.{job.name.tuning_job}.state",
            event.SerializeToString(),
        )

    async def job_succeeded(self, job: TuningJob, result: Result) -> None:
        message = to_proto.succeeded(job, result)
        await self._outbox.add(f"{job.name}:succeeded", SUCCEEDED, message.SerializeToString())


class CreateRequests:
    """The request_ids of CreateTuningJob."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._requests = Requests(session)

    async def find(self, request: Request) -> str | None:
        made = select(RequestRow.resource).where(
            col(RequestRow.project) == request.project,
            col(RequestRow.method) == _METHOD,
            col(RequestRow.request_id) == request.id,
            col(RequestRow.fingerprint) == request.fingerprint,
        )
        return (await self._session.exec(made)).one_or_none()

    async def reserve(self, request: Request) -> str | None:
        return await self._requests.reserve(_key(request), request.fingerprint)

    async def settle(self, request: Request, job: TuningJobName) -> None:
        await self._requests.settle(_key(request), str(job))


def _key(request: Request) -> RequestKey:
    return RequestKey(request.project, _METHOD, request.id)
