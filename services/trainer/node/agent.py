"""The node's life: claim a job, train it, claim the next, until it is told to stop."""

import asyncio
from collections.abc import Callable, Sequence

import structlog

from services.common.faults import Unavailable
from services.trainer.node.attempt import Attempt
from services.trainer.node.engines import WarmEngines
from services.trainer.node.lease import Cause, Lease, Leases
from services.trainer.node.retrying import repeated
from services.trainer.node.room import Room

_LAST_QUESTION_S = 5.0
"""For how long a node that stops asks whether it was granted a job."""

_log = structlog.get_logger()

StartAttempt = Callable[[Lease, Sequence[str]], Attempt]


class Agent:
    """Works on as many jobs at a time as there is room for. `start_attempt` makes the attempt of a
    lease on these GPUs."""

    def __init__(
        self,
        leases: Leases,
        start_attempt: StartAttempt,
        claim_wait_s: float,
        room: Room,
        warm: WarmEngines,
    ) -> None:
        self._leases = leases
        self._start_attempt = start_attempt
        self._claim_wait_s = claim_wait_s
        self._room = room
        self._warm = warm
        self._stopping = asyncio.Event()
        self._attempts: dict[asyncio.Task[None], Attempt] = {}

    def stop(self) -> None:
        """Claims nothing more; engines write a checkpoint, and their jobs are handed back."""
        self._stopping.set()
        for attempt in self._attempts.values():
            attempt.stop(Cause.NODE_STOPPING)

    async def run(self) -> None:
        """Returns after `stop`, when the jobs in hand have been handed back."""
        stopping = asyncio.create_task(self._stopping.wait())
        await self._warm.fill()
        try:
            while not self._stopping.is_set():
                if not self._room.free_devices:
                    await asyncio.wait(
                        {stopping, *self._attempts}, return_when=asyncio.FIRST_COMPLETED
                    )
                elif (lease := await self._claim(stopping)) is not None:
                    self._begin(lease)
                await self._clear_up()
        finally:
            stopping.cancel()
            self.stop()
            await asyncio.gather(*self._attempts)
            await self._warm.close()

    def _begin(self, lease: Lease) -> None:
        gpus = self._room.take(lease.device_count)
        attempt = self._start_attempt(lease, gpus)
        if self._stopping.is_set():
            attempt.stop(Cause.NODE_STOPPING)
        task = asyncio.create_task(attempt.run())
        task.add_done_callback(lambda _: self._room.give_back(gpus))
        self._attempts[task] = attempt

    async def _clear_up(self) -> None:
        """Raises what an attempt raised: it should not have."""
        for task in [task for task in self._attempts if task.done()]:
            del self._attempts[task]
            await task

    async def _claim(self, stopping: asyncio.Task[bool]) -> Lease | None:
        """The next lease; None if there is none, the node shall stop, or there is more room now.

        A claim under way then is cancelled. Should the service have granted it at that very moment,
        the next claim, which has the same id, gets that lease; a node that stops asks for it, and
        hands it back.
        """
        claim = asyncio.create_task(repeated(self._claim_once, "node.trainer_away"))
        changes = {claim, stopping, *self._attempts}
        await asyncio.wait(changes, return_when=asyncio.FIRST_COMPLETED)
        if not claim.done():
            claim.cancel()
            await asyncio.wait({claim})
            return await self._granted() if stopping.done() else None
        return claim.result()

    async def _granted(self) -> Lease | None:
        """None too if the service does not say so soon: the lease then runs out by itself, which
        costs the job an attempt."""
        try:
            async with asyncio.timeout(_LAST_QUESTION_S):
                return await self._leases.granted()
        except (Unavailable, TimeoutError) as error:
            _log.warning("node.claim_unanswered", error=str(error))
            return None

    async def _claim_once(self) -> Lease | None:
        return await self._leases.claim(self._claim_wait_s, self._room.free_devices)
