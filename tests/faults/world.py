"""Jobs on a platform whose processes are killed, and what must hold of them all the same."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import psutil

from anneal import Client
from anneal.errors import AnnealError, NotFound
from anneal.trainer.v1.tuning_job_pb2 import (
    LoraMethod,
    TrainingParameters,
    TuningJob,
    TuningJobEvent,
)

VICTIMS = ("engine", "node", "trainer", "nats")
STEPS = 60
TRAINING = TrainingParameters(
    max_steps=STEPS,
    batch_size=4,
    learning_rate=5e-3,
    warmup_steps=5,
    max_sequence_tokens=128,
    evaluate_every=30,
    checkpoint_every=6,
)
METHOD = LoraMethod(rank=4, dropout=0.1)
SEED = 7
PATIENCE_S = 120.0


QUICK = TrainingParameters(
    max_steps=4,
    batch_size=4,
    learning_rate=5e-3,
    max_sequence_tokens=128,
    checkpoint_every=2,
)
"""A second of work."""
LONG_TRAINING = TrainingParameters(
    max_steps=100_000, batch_size=4, max_sequence_tokens=128, checkpoint_every=50
)
"""Until it is cancelled."""


class Programs(Protocol):
    """What runs, by name: a Platform or a Site."""

    def pids(self) -> dict[str, int]: ...


@dataclass
class World:
    """The platform, and one dataset on it."""

    platform: Programs
    client: Client
    dataset: str

    @cached_property
    def undisturbed(self) -> str:
        """The sha256 of the weights that a job makes when nothing is killed."""
        job = self.create("undisturbed")
        events = list(self.client.jobs.watch(job.name, timeout_s=PATIENCE_S))
        assert steps_of(events) == list(range(1, STEPS + 1))
        return self.only_adapter(job)

    def create(self, name: str, training: TrainingParameters = TRAINING) -> TuningJob:
        """A job whose result goes to a model of its own name."""
        return self.client.jobs.create(
            self.dataset,
            "tiny-base",
            method=METHOD,
            training=training,
            seed=SEED,
            max_attempts=20,
            model=name,
            job_id=name,
        )

    def pid(self, victim: str) -> int | None:
        if victim != "engine":
            return self.platform.pids().get(victim)
        node = self.platform.pids().get("node")
        if node is None:
            return None
        with suppress(psutil.Error):
            for child in psutil.Process(node).children():
                if "services.trainer.engine" in child.cmdline():
                    return child.pid
        return None

    def kill(self, victim: str) -> None:
        """kill -9, as soon as there is something to kill."""
        pid = waited_for(lambda: self.pid(victim), f"a running {victim}")
        os.kill(pid, signal.SIGKILL)

    def watch(self, job: TuningJob) -> Iterator[TuningJobEvent]:
        return self.client.jobs.watch(job.name, timeout_s=PATIENCE_S)

    def versions(self, job: TuningJob) -> int:
        """How many versions a job's model has. A model that is not there has none."""
        try:
            return len(list(self.client.models.versions(job.model)))
        except NotFound:
            return 0

    def only_adapter(self, job: TuningJob) -> str:
        """The sha256 of the weights in the one version that a job's model must have."""
        ended = self.client.jobs.get(job.name)
        assert ended.state == TuningJob.STATE_SUCCEEDED, ended
        self.client.models.wait_for_version(ended.model_version, timeout_s=PATIENCE_S)
        (version,) = self.client.models.versions(job.model)
        assert (version.name, version.lineage.tuning_job) == (ended.model_version, job.name)
        (weights,) = [a for a in version.artifacts if a.path == "adapter_model.safetensors"]
        return weights.sha256

    def assert_unharmed(self, job: TuningJob, seen: list[TuningJobEvent]) -> None:
        """`seen` is what one watcher saw, all through the kills."""
        assert self.only_adapter(job) == self.undisturbed
        history = list(self.watch(job))
        assert seen == history, "a watcher from the beginning and one after the end see the same"
        assert [event.sequence for event in history] == list(range(1, len(history) + 1))
        for attempt in range(1, self.client.jobs.get(job.name).attempt + 1):
            told = [e.attempt_sequence for e in history if e.attempt == attempt]
            told = [number for number in told if number]
            assert told == list(range(1, len(told) + 1)), f"attempt {attempt}"
        assert set(steps_of(history)) == set(range(1, STEPS + 1))


def steps_of(events: list[TuningJobEvent]) -> list[int]:
    return [event.step.step for event in events if event.HasField("step")]


def waited_for(find: Callable[[], int | None], what: str) -> int:
    end = time.monotonic() + PATIENCE_S
    while True:
        with suppress(AnnealError):
            if (found := find()) is not None:
                return found
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.02)
