"""What commands tell the queue of a job: how urgent it is, which nodes suit, when it has to end."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from typing import Annotated, TypeVar

import typer

from anneal.cli.printing import size, when
from anneal.cli.quantities import bytes_of, time_of
from anneal.enums import word_of
from anneal.trainer.v1.tuning_job_pb2 import Priority as WirePriority
from anneal.trainer.v1.tuning_job_pb2 import Requirements, TuningJob

T = TypeVar("T")


class Priority(StrEnum):
    """Which waiting jobs come first."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"
    URGENT = "urgent"


_of_queue = partial(typer.Option, rich_help_panel="Queue")

PriorityOption = Annotated[
    Priority | None,
    _of_queue("--priority", help="Higher ones first; urgent: a running job makes room (normal)."),
]
Require = Annotated[
    list[str] | None,
    _of_queue(help="A label of the node that trains it, as `gpu=h200`; repeatable."),
]
Devices = Annotated[int | None, _of_queue(help="How many of one node train it together (1).")]
DeviceMemory = Annotated[str, _of_queue(help="Of each device: `80GB` or more (any).")]
DeadlineOption = Annotated[
    str,
    _of_queue(
        "--deadline",
        help="When its training ends, with the best so far: `2h` from now, or a time as "
        "`2026-12-01T08:00Z` (never).",
    ),
]


def wire_priority(priority: Priority | None) -> WirePriority.ValueType:
    """Unspecified where none is said."""
    return WirePriority.Value(f"PRIORITY_{priority.name if priority else 'UNSPECIFIED'}")


def requirements(
    labels: Sequence[str], devices: int | None, device_memory: str
) -> Requirements | None:
    """None where nothing is required. Raises BadParameter."""
    wanted = Requirements(
        node_labels=pairs(labels, "--require"),
        device_count=devices or 0,
        device_memory_bytes=_read(bytes_of, device_memory, "--device-memory") or 0,
    )
    return wanted if wanted.ByteSize() else None


def deadline_time(text: str) -> datetime | None:
    """None where none is said. Raises BadParameter."""
    return _read(lambda told: time_of(told, datetime.now(UTC)), text, "--deadline")


def pairs(texts: Sequence[str], option: str) -> dict[str, str]:
    """Returns what texts of `key=value` say. Raises BadParameter."""
    for text in texts:
        if "=" not in text:
            raise typer.BadParameter(f"{text!r} is not key=value", param_hint=option)
    return {key: value for key, _, value in (text.partition("=") for text in texts)}


def queue_fields(job: TuningJob) -> dict[str, str]:
    """What people read of it, by name; empty what is not said."""
    return {
        "priority": priority_word(job),
        "requires": _requirements_text(job.requirements),
        "deadline": when(job.deadline_time),
    }


def priority_word(job: TuningJob) -> str:
    return word_of(WirePriority.DESCRIPTOR, job.priority).lower() if job.priority else ""


def _requirements_text(wanted: Requirements) -> str:
    words = [f"{key}={value}" for key, value in sorted(wanted.node_labels.items())]
    if wanted.device_count > 1:
        words.append(f"{wanted.device_count} devices")
    if wanted.device_memory_bytes:
        words.append(f"{size(wanted.device_memory_bytes)} of memory a device")
    return ", ".join(words)


def _read(read: Callable[[str], T], text: str, option: str) -> T | None:
    try:
        return read(text) if text else None
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error
