"""What nodes say of themselves when they ask for work, and what follows from it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from services.common.faults import Violation
from services.trainer.control.domain.estimation.devices import Device
from services.trainer.control.domain.names import TuningJobName
from services.trainer.control.domain.queue.lines import Line
from services.trainer.control.domain.settings import Backend

LATELY = timedelta(minutes=10)
"""A node that asked for work since then, or that holds a lease, counts as there."""

_WRITTEN_EVERY = timedelta(seconds=60)


@dataclass(frozen=True)
class Capabilities:
    """What a host has to train with, as measured when its node began. Empty words: not known."""

    device_count: int = 0
    engine_count: int = 0
    driver_version: str = ""
    torch_version: str = ""
    tested_methods: tuple[str, ...] = ()
    failed_methods: tuple[str, ...] = ()
    code_version: str = ""


@dataclass(frozen=True)
class Offer:
    """What a node has to train on and with, at `time`. A node of an earlier version tells of no
    device. `free_devices` are those that the job which it asks for could have."""

    node: str
    device: Device | None
    backends: frozenset[Backend]
    time: datetime
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    free_devices: int = 1
    capabilities: Capabilities | None = None

    def can_train(self, line: Line) -> bool:
        wanted = line.requirements
        memory_bytes = self.device.memory_bytes if self.device else 0
        return (
            line.backend in self.backends
            and not self._fails_at(line)
            and wanted.device_count <= self.free_devices
            and wanted.device_memory_bytes <= memory_bytes
            and wanted.node_labels.items() <= self.labels.items()
        )

    def _fails_at(self, line: Line) -> bool:
        """Nodes try the methods of Anneal's own engine, and only if nothing else is to be done."""
        failed = self.capabilities.failed_methods if self.capabilities else ()
        return line.backend is Backend.BUILTIN and line.method in failed

    def says_more_than(self, known: "Offer | None") -> bool:
        """Whether it is worth a write: nodes ask again and again."""
        if known is None or replace(self, time=known.time) != known:
            return True
        return self.time - known.time >= _WRITTEN_EVERY


class Schedule(StrEnum):
    """Whether a node gets jobs: not what it says of itself, but what is wanted of it."""

    OPEN = "OPEN"
    CORDONED = "CORDONED"  # no more
    DRAINING = "DRAINING"  # no more, and those that it has go


@dataclass(frozen=True)
class Node:
    """A node that ever asked for work, with the jobs whose leases it holds. `there`: it asked
    lately, or holds one."""

    offer: Offer
    schedule: Schedule
    jobs: tuple[TuningJobName, ...]
    there: bool

    @property
    def state(self) -> str:
        """As the API has it."""
        if self.schedule is not Schedule.OPEN:
            return self.schedule
        return "READY" if self.there else "GONE"


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
