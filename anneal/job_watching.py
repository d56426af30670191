"""Following what happens to a job, through lost connections and services that restart."""

import math
import time
from collections.abc import Iterator
from contextlib import closing

from anneal.connection import Connection
from anneal.errors import AnnealError, DataLoss, DeadlineExceeded, Refusal, Unavailable
from anneal.trainer.v1.tuning_job_pb2 import TuningJob, TuningJobEvent
from anneal.trainer.v1.tuning_job_service_pb2 import GetTuningJobRequest, WatchTuningJobRequest
from anneal.trainer.v1.tuning_job_service_pb2_grpc import TuningJobServiceStub
from anneal.waiting import Deadline, Patience

FINAL_STATES = frozenset(
    {TuningJob.STATE_SUCCEEDED, TuningJob.STATE_FAILED, TuningJob.STATE_CANCELLED}
)
WATCH_PATIENCE_S = 300.0
STEADY_S = 60.0
"""A call that lasts so long had a connection: where there is none, grpc gives up sooner."""

_EVENTS_MISSING = "EVENTS_MISSING"
_LOST = frozenset({"UNAVAILABLE", "CANCELLED", "UNKNOWN", "INTERNAL"})
_MADE_BY_GRPC = frozenset({"", "UNREACHABLE"})


class JobWatch:
    """Watches one job. `patience_s` is how long the service may be away."""

    def __init__(
        self, connection: Connection, name: str, patience_s: float, timeout_s: float | None
    ) -> None:
        self._connection = connection
        self._rpc = TuningJobServiceStub(connection.channel)
        self._name = name
        self._patience = Patience(patience_s)
        self._deadline = Deadline(timeout_s, "the job")

    def events(self, after_sequence: int) -> Iterator[TuningJobEvent]:
        """Yields every event after a place in the job's history, until the job has ended.

        Raises what broke it when patience ended, DeadlineExceeded when the time is over.
        """
        last = after_sequence
        while True:
            before, began = last, time.monotonic()
            try:
                for event in self._once(last):
                    last = event.sequence
                    self._patience.restart()
                    yield event
                # A service that shuts down ends its streams too: only silence is the end.
                if last == before and self._has_ended():
                    return
                failure = _stopped(self._name)
            except DeadlineExceeded:
                self._deadline.left_s()  # if that is over, it is what the caller hears of
                raise
            except AnnealError as error:
                if not _is_passing(error):
                    raise
                failure = error
            # Nothing happens to a job that waits or is paused, however well the service is.
            if time.monotonic() - began >= STEADY_S:
                self._patience.restart()
            if not self._patience.pause(self._deadline.left_s()):
                raise failure

    def _once(self, last: int) -> Iterator[TuningJobEvent]:
        """Yields the events after `last`. Raises DataLoss where one is missing."""
        request = WatchTuningJobRequest(name=self._name, after_sequence=last)
        left_s = self._deadline.left_s()
        limit_s = None if math.isinf(left_s) else left_s
        answers = self._connection.follow(self._rpc.WatchTuningJob, request, limit_s)
        with closing(answers):
            for event in (answer.event for answer in answers):
                if event.sequence > last + 1:
                    raise _missing(self._name, last + 1)
                if event.sequence == last + 1:
                    last = event.sequence
                    yield event

    def _has_ended(self) -> bool:
        request = GetTuningJobRequest(name=self._name)
        return self._connection.ask(self._rpc.GetTuningJob, request).state in FINAL_STATES


def _is_passing(error: AnnealError) -> bool:
    """Whether the connection broke or the service went away, rather than refused."""
    is_broken = error.code in _LOST and error.reason in _MADE_BY_GRPC
    return error.code == "UNAVAILABLE" or error.reason == _EVENTS_MISSING or is_broken


def _missing(name: str, sequence: int) -> DataLoss:
    message = f"event {sequence} of {name} is missing"
    return DataLoss(Refusal("DATA_LOSS", _EVENTS_MISSING, message))


def _stopped(name: str) -> AnnealError:
    message = f"the service ends every watch of {name}, though the job has not ended"
    return Unavailable(Refusal("UNAVAILABLE", "WATCH_ENDED", message))
