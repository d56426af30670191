"""What nodes say of themselves when they ask for work, and what follows from it."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from services.common.faults import Violation
from services.trainer.control.domain.estimation.devices import Device
from services.trainer.control.domain.settings import Backend

LATELY = timedelta(minutes=10)
"""A node that asked for work since then, or that holds a lease, counts as there."""

_WRITTEN_EVERY = timedelta(seconds=60)


@dataclass(frozen=True)
class Offer:
    """What a node has to train on and with, at `time`. A node of an earlier version tells of no
    device."""

    node: str
    device: Device | None
    backends: frozenset[Backend]
    time: datetime

    def says_more_than(self, known: "Offer | None") -> bool:
        """Whether it is worth a write: nodes ask again and again."""
        if known is None or (self.device, self.backends) != (known.device, known.backends):
            return True
        return self.time - known.time >= _WRITTEN_EVERY


def largest(offers: Iterable[Offer]) -> Device | None:
    """The device of most memory, of two alike that of the fastest products; None where no node
    has told of its memory."""
    devices = [one.device for one in offers if one.device is not None and one.device.memory_bytes]
    return max(
        devices, key=lambda one: (one.memory_bytes, one.bfloat16_flops, one.model), default=None
    )


def backend_lacking(backend: Backend, offers: Iterable[Offer]) -> list[Violation]:
    """That nobody could take the job. Where no node is there, nothing is known, and it may wait
    for one."""
    offered = [offer.backends for offer in offers]
    if not offered or any(backend in one for one in offered):
        return []
    words = (
        f"no node can train with {backend.lower()}: start one on a host where {backend.lower()} is "
        "installed, or leave the backend unset for Anneal's own"
    )
    return [Violation("tuning_job.backend", words, "BACKEND_NOT_OFFERED")]
