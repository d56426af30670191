"""Blind A/B tests: create, judge, report."""

from collections.abc import Iterable, Iterator, Sequence

from anneal.abtest.v1.ab_test_service_pb2 import (
    CastVoteRequest,
    CreateExperimentRequest,
    DeleteExperimentRequest,
    GetExperimentReportRequest,
    GetExperimentRequest,
    ListExperimentsRequest,
    NextPairRequest,
)
from anneal.abtest.v1.ab_test_service_pb2_grpc import ABTestServiceStub
from anneal.abtest.v1.experiment_pb2 import (
    Experiment,
    ExperimentPrompt,
    ExperimentReport,
    Pair,
    Vote,
)
from anneal.connection import Connection, items_of_pages, new_request_id
from anneal.conversations import Conversation, messages_of
from anneal.errors import DeadlineExceeded, FailedPrecondition, Refusal
from anneal.names import Names
from anneal.waiting import Patience

ANSWERS_TIMEOUT_S = 3600.0


class Experiments:
    """`client.experiments`. Experiments go by their last part; models as in `Inference`."""

    def __init__(self, connection: Connection, names: Names) -> None:
        self._connection = connection
        self._names = names
        self._rpc = ABTestServiceStub(connection.channel)

    def create(
        self,
        baseline: str,
        candidate: str,
        prompts: Sequence[Conversation],
        *,
        max_output_tokens: int = 0,
        experiment_id: str = "",
        validate_only: bool = False,
    ) -> Experiment:
        """Begins an experiment; each prompt is a conversation that ends with a user's turn."""
        experiment = Experiment(
            baseline_model=self._names.answering_model(baseline),
            candidate_model=self._names.answering_model(candidate),
            prompts=[ExperimentPrompt(messages=messages_of(prompt)) for prompt in prompts],
            max_output_tokens=max_output_tokens,
        )
        request = CreateExperimentRequest(
            parent=self._names.parent,
            experiment_id=experiment_id,
            experiment=experiment,
            request_id=new_request_id(),
            validate_only=validate_only,
        )
        return self._connection.ask(self._rpc.CreateExperiment, request)

    def get(self, experiment: str) -> Experiment:
        request = GetExperimentRequest(name=self._names.experiment(experiment))
        return self._connection.ask(self._rpc.GetExperiment, request)

    def list(self) -> Iterator[Experiment]:
        """Yields the project's experiments, newest first, without their prompts."""

        def page(token: str) -> tuple[Iterable[Experiment], str]:
            request = ListExperimentsRequest(parent=self._names.parent, page_token=token)
            answer = self._connection.ask(self._rpc.ListExperiments, request)
            return answer.experiments, answer.next_page_token

        return items_of_pages(page)

    def delete(self, experiment: str) -> None:
        """Deletes an experiment with its votes."""
        request = DeleteExperimentRequest(name=self._names.experiment(experiment))
        self._connection.ask(self._rpc.DeleteExperiment, request)

    def wait_for_answers(
        self, experiment: str, *, timeout_s: float = ANSWERS_TIMEOUT_S
    ) -> Experiment:
        """Returns the experiment when all answers are there or it has failed: look at `state`.

        Raises DeadlineExceeded.
        """
        patience = Patience(timeout_s)
        while (found := self.get(experiment)).state == Experiment.STATE_GENERATING:
            if not patience.pause():
                raise _still_generating(found)
        return found

    def next_pair(
        self, experiment: str, voter: str, *, timeout_s: float = ANSWERS_TIMEOUT_S
    ) -> Pair | None:
        """Returns the next pair for a voter, None when all are judged.

        Waits for answers that are still being generated; FailedPrecondition after `timeout_s`.
        """
        request = NextPairRequest(name=self._names.experiment(experiment), voter=voter)
        try:
            return Patience(timeout_s).call(
                lambda: self._connection.ask(self._rpc.NextPair, request).pair,
                lambda error: error.reason == "ANSWERS_PENDING",
            )
        except FailedPrecondition as error:
            if error.reason == "NO_PAIR_LEFT":
                return None
            raise

    def vote(self, pair: str, voter: str, choice: Vote.Choice.ValueType) -> Vote:
        """Casts a vote on a pair (its full name); the answer tells which model was which."""
        request = CastVoteRequest(name=pair, voter=voter, choice=choice)
        return self._connection.ask(self._rpc.CastVote, request).vote

    def report(self, experiment: str) -> ExperimentReport:
        """Returns what the votes say so far."""
        name = f"{self._names.experiment(experiment)}/report"
        request = GetExperimentReportRequest(name=name)
        return self._connection.ask(self._rpc.GetExperimentReport, request)


def _still_generating(experiment: Experiment) -> DeadlineExceeded:
    message = (
        f"{experiment.ready_count} of {experiment.prompt_count} prompts have their answers in the "
        "time given; the rest goes on"
    )
    return DeadlineExceeded(Refusal("DEADLINE_EXCEEDED", "ANSWERS_PENDING", message))
