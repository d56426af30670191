"""An attempt's events on their way to the bus: in order, each once, and training never waits."""

import asyncio
from dataclasses import dataclass

from anneal.trainer.v1 import tuning_job_pb2 as pb
from services.common.bus import Bus
from services.common.clock import Clock
from services.common.names import project_of
from services.trainer.node.retrying import repeated


@dataclass(frozen=True)
class _Numbered:
    sequence: int
    event: pb.TuningJobEvent


class Telemetry:
    """Numbers an attempt's events from 1 and publishes them one after the other.

    An event is let go only when the stream has stored it, so the numbers on the stream have no
    gap; its message id is a pure function of job, attempt and number, so a repeat is no second
    event. While the bus is away events wait in memory.
    """

    def __init__(self, bus: Bus, clock: Clock, job: str, attempt: int) -> None:
        self._bus = bus
        self._clock = clock
        self._job = job
        self._attempt = attempt
        self._subject = f"anneal.jobs.{project_of(job)}.{job.rsplit('/', 1)[-1]}.events"
        self._waiting: asyncio.Queue[_Numbered] = asyncio.Queue()
        self._count = 0
        self._stored_count = 0
        self._grown = asyncio.Condition()

    @property
    def count(self) -> int:
        """How many events there are so far."""
        return self._count

    def add(self, event: pb.TuningJobEvent) -> None:
        """Puts an event behind those that wait."""
        self._count += 1
        event.attempt = self._attempt
        event.attempt_sequence = self._count
        if not event.HasField("time"):
            event.time.FromDatetime(self._clock.now())
        self._waiting.put_nowait(_Numbered(self._count, event))

    async def stored(self) -> None:
        """Returns when every event added before this call is in the stream."""
        awaited = self._count
        async with self._grown:
            await self._grown.wait_for(lambda: self._stored_count >= awaited)

    async def publish_all(self) -> None:
        """Publishes what was and will be added, until it is cancelled."""
        while True:
            numbered = await self._waiting.get()
            await self._publish(numbered)
            async with self._grown:
                self._stored_count = numbered.sequence
                self._grown.notify_all()

    async def _publish(self, numbered: _Numbered) -> None:
        message_id = f"{self._job}:{self._attempt}:{numbered.sequence}"
        payload = numbered.event.SerializeToString()
        await repeated(
            lambda: self._bus.publish(self._subject, payload, message_id),
            "telemetry.bus_away",
            job=self._job,
        )
