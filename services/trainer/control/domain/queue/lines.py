"""Lines: the waiting jobs of one project, one priority and the same demands, the oldest first.

There are few lines however many jobs wait, and whose turn it is shows from the lines alone. That is
what keeps a claim as quick with a hundred thousand waiting jobs as with a hundred.
"""

import json
from dataclasses import dataclass
from functools import cached_property, lru_cache

from services.trainer.control.domain.queue.requirements import Priority, Requirements
from services.trainer.control.domain.settings import Backend, JobSettings

MAX_LINES = 100
"""Of one project: a claim looks at the head of each."""


@dataclass(frozen=True)
class Line:
    """`key` is how a row of the queue names its line. Lines of jobs that an earlier version queued
    have no `method`."""

    project: str
    priority: Priority
    backend: Backend
    requirements: Requirements
    method: str = ""

    @cached_property
    def key(self) -> str:
        wanted = self.requirements
        labels = sorted(wanted.node_labels.items())
        demands = [self.backend, wanted.device_count, wanted.device_memory_bytes, labels]
        demands += [self.method] if self.method else []
        return json.dumps([self.project, self.priority, *demands], separators=(",", ":"))


def line_of(project: str, settings: JobSettings) -> Line:
    method = settings.method.kind
    return Line(project, settings.priority, settings.backend, settings.requirements, method)


def is_line_of(key: str, project: str) -> bool:
    """Whether a line of this name is the project's."""
    return key.startswith(json.dumps([project]).removesuffix("]") + ",")


@lru_cache(maxsize=4096)
def line_named(key: str) -> Line:
    """The inverse of `Line.key`: the same few are read at every claim."""
    project, priority, backend, device_count, device_memory_bytes, labels, *rest = json.loads(key)
    requirements = Requirements(
        node_labels=dict(labels),
        device_count=device_count,
        device_memory_bytes=device_memory_bytes,
    )
    (method,) = rest or ("",)
    return Line(project, Priority(priority), Backend(backend), requirements, method)
