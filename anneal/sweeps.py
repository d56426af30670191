"""Sweeps: searches for the learning rate and the rank of a job."""

import time
from collections.abc import Iterable, Iterator, Sequence

from anneal.connection import Connection, items_of_pages, new_request_id
from anneal.errors import DeadlineExceeded, Unavailable
from anneal.jobs import or_lora
from anneal.names import Names
from anneal.trainer.v1.tuning_job_pb2 import TuningJob
from anneal.trainer.v1.tuning_sweep_pb2 import Trial, TuningSweep
from anneal.trainer.v1.tuning_sweep_service_pb2 import (
    CancelTuningSweepRequest,
    GetTuningSweepRequest,
    ListTuningSweepsRequest,
    SweepTuningJobRequest,
)
from anneal.trainer.v1.tuning_sweep_service_pb2_grpc import TuningSweepServiceStub
from anneal.transport import DEFAULT_DEADLINE_S
from anneal.waiting import Deadline, Patience

FINAL_SWEEP_STATES = frozenset(
    {TuningSweep.STATE_SUCCEEDED, TuningSweep.STATE_FAILED, TuningSweep.STATE_CANCELLED}
)
AWAY_PATIENCE_S = 300.0
POLL_S = 0.5


class Sweeps:
    """`client.sweeps`. Sweeps go by their last part."""

    def __init__(self, connection: Connection, names: Names) -> None:
        self._connection = connection
        self._names = names
        self._rpc = TuningSweepServiceStub(connection.channel)

    def create(
        self,
        job: TuningJob,
        *,
        learning_rates: Sequence[float] = (),
        ranks: Sequence[int] = (),
        reduction: int = 0,
        first_rung_steps: int = 0,
        sweep_id: str = "",
        validate_only: bool = False,
    ) -> TuningSweep:
        """Looks for the learning rate and the rank of `job`, which `client.jobs.describe` makes.

        What is left out takes the service's default, the method of the job LoRA. With
        `validate_only` everything is checked and nothing made.
        """
        sweep = TuningSweep(
            tuning_job=or_lora(job),
            learning_rates=learning_rates,
            ranks=ranks,
            reduction=reduction,
            first_rung_steps=first_rung_steps,
        )
        request = SweepTuningJobRequest(
            parent=self._names.parent,
            tuning_sweep_id=sweep_id,
            tuning_sweep=sweep,
            request_id=new_request_id(),
            validate_only=validate_only,
        )
        return self._connection.ask(self._rpc.SweepTuningJob, request)

    def get(self, sweep: str) -> TuningSweep:
        return self._get(sweep, DEFAULT_DEADLINE_S)

    def list(self) -> Iterator[TuningSweep]:
        """Yields the project's sweeps, newest first."""

        def page(token: str) -> tuple[Iterable[TuningSweep], str]:
            request = ListTuningSweepsRequest(parent=self._names.parent, page_token=token)
            answer = self._connection.ask(self._rpc.ListTuningSweeps, request)
            return answer.tuning_sweeps, answer.next_page_token

        return items_of_pages(page)

    def cancel(self, sweep: str, *, etag: str = "") -> TuningSweep:
        """Stops a sweep and its trials."""
        request = CancelTuningSweepRequest(
            name=self._names.tuning_sweep(sweep), etag=etag, request_id=new_request_id()
        )
        return self._connection.ask(self._rpc.CancelTuningSweep, request)

    def watch(
        self, sweep: str, *, timeout_s: float | None = None, poll_s: float = POLL_S
    ) -> Iterator[TuningSweep]:
        """Yields the sweep as it stands, and again after each change, until it has ended.

        It is asked for every `poll_s`, so changes in between are seen together. Raises
        DeadlineExceeded after `timeout_s`; Unavailable when the service was away for too long.
        """
        deadline = Deadline(timeout_s, "the sweep")
        shown = None
        while True:
            found = self._look(sweep, deadline)
            if found != shown:
                shown = found
                yield found
            if found.state in FINAL_SWEEP_STATES:
                return
            time.sleep(min(poll_s, deadline.left_s()))

    def wait(self, sweep: str, *, timeout_s: float | None = None) -> TuningSweep:
        """Returns the sweep when it has ended, however it ended: look at its `state`."""
        *_, ended = self.watch(sweep, timeout_s=timeout_s)
        return ended

    def _get(self, sweep: str, timeout_s: float) -> TuningSweep:
        request = GetTuningSweepRequest(name=self._names.tuning_sweep(sweep))
        return self._connection.ask(self._rpc.GetTuningSweep, request, timeout_s)

    def _look(self, sweep: str, deadline: Deadline) -> TuningSweep:
        """Asks again for as long as the service is away and patience lasts."""
        patience = Patience(AWAY_PATIENCE_S)
        while True:
            try:
                return self._get(sweep, min(DEFAULT_DEADLINE_S, deadline.left_s()))
            except DeadlineExceeded:
                deadline.left_s()  # if that is over, it is what the caller hears of
                raise
            except Unavailable:
                if not patience.pause(deadline.left_s()):
                    raise


def winning_trial(sweep: TuningSweep) -> Trial | None:
    """Returns the trial that won; None if none has."""
    won = (one for one in sweep.trials if sweep.winner and one.tuning_job == sweep.winner)
    return next(won, None)
