"""The news of jobs, recorded in the transaction of their change."""

from services.common.outbox import Outbox
from services.trainer.control import to_proto
from services.trainer.control.domain.endings import Result
from services.trainer.control.domain.job import TuningJob
from services.trainer.control.domain.ports import StateChange

SUCCEEDED = "anneal.jobs.succeeded"


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
