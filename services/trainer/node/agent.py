"""The node's life: claim a job, train it, claim the next, until it is told to stop."""

import asyncio
from collections.abc import Callable

from services.trainer.node.attempt import Attempt
from services.trainer.node.lease import Cause, Lease, Leases
from services.trainer.node.retrying import repeated


class Agent:
    """Works on one job at a time. `start_attempt` makes the attempt of a lease."""

    def __init__(
        self, leases: Leases, start_attempt: Callable[[Lease], Attempt], claim_wait_s: float
    ) -> None:
        self._leases = leases
        self._start_attempt = start_attempt
        self._claim_wait_s = claim_wait_s
        self._stopping = asyncio.Event()
        self._attempt: Attempt | None = None

    def stop(self) -> None:
        """Claims nothing more; a running engine writes a checkpoint and its job is handed back."""
        self._stopping.set()
        if self._attempt is not None:
            self._attempt.stop(Cause.NODE_STOPPING)

    async def run(self) -> None:
        """Returns after `stop`, when the job in hand has been handed back."""
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            while not self._stopping.is_set():
                lease = await self._claim(stopping)
                if lease is not None:
                    await self._work(lease)
        finally:
            stopping.cancel()

    async def _work(self, lease: Lease) -> None:
        self._attempt = self._start_attempt(lease)
        if self._stopping.is_set():
            self._attempt.stop(Cause.NODE_STOPPING)
        try:
            await self._attempt.run()
        finally:
            self._attempt = None

    async def _claim(self, stopping: asyncio.Task[bool]) -> Lease | None:
        """The next lease; None if there is none or the node shall stop.

        A claim under way when the node is told to stop is cancelled; should the service have
        granted it at that very moment, the lease runs out and the job is queued again.
        """
        claim = asyncio.create_task(
            repeated(lambda: self._leases.claim(self._claim_wait_s), "node.trainer_away")
        )
        await asyncio.wait({claim, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not claim.done():
            claim.cancel()
            await asyncio.wait({claim})
            return None
        return claim.result()
