"""Tuning jobs: create, list, pause, resume, retry, cancel, watch, wait."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import assert_never

from google.protobuf.timestamp_pb2 import Timestamp

from anneal.connection import Connection, items_of_pages, new_request_id
from anneal.job_watching import WATCH_PATIENCE_S, JobWatch
from anneal.names import Names
from anneal.registry.v1.base_model_pb2 import ModelArchitecture
from anneal.trainer.v1.estimate_pb2 import Device
from anneal.trainer.v1.tuning_job_pb2 import (
    BACKEND_UNSPECIFIED,
    PRIORITY_UNSPECIFIED,
    AdapterMethod,
    Backend,
    FullMethod,
    LoraMethod,
    PrefixMethod,
    Priority,
    QloraMethod,
    Requirements,
    TrainingParameters,
    TuningJob,
    TuningJobAttempt,
    TuningJobEvent,
)
from anneal.trainer.v1.tuning_job_service_pb2 import (
    CancelTuningJobRequest,
    CreateTuningJobRequest,
    EstimateTuningJobRequest,
    EstimateTuningJobResponse,
    GetTuningJobRequest,
    ListTuningJobAttemptsRequest,
    ListTuningJobsRequest,
    PauseTuningJobRequest,
    RecommendMethodRequest,
    RecommendMethodResponse,
    ResumeTuningJobRequest,
    RetryTuningJobRequest,
)
from anneal.trainer.v1.tuning_job_service_pb2_grpc import TuningJobServiceStub

Method = FullMethod | LoraMethod | QloraMethod | PrefixMethod | AdapterMethod


class Jobs:
    """`client.jobs`. Names may be short: a job's or a dataset's last part."""

    def __init__(self, connection: Connection, names: Names) -> None:
        self._connection = connection
        self._names = names
        self._rpc = TuningJobServiceStub(connection.channel)

    def create(
        self,
        dataset: str,
        base_model: str,
        *,
        method: Method | None = None,
        training: TrainingParameters | None = None,
        model: str = "",
        start_from: str = "",
        seed: int = 0,
        max_attempts: int = 0,
        backend: Backend.ValueType = BACKEND_UNSPECIFIED,
        labels: Mapping[str, str] | None = None,
        priority: Priority.ValueType = PRIORITY_UNSPECIFIED,
        requirements: Requirements | None = None,
        deadline_time: datetime | None = None,
        job_id: str = "",
        validate_only: bool = False,
    ) -> TuningJob:
        """Puts a job into the queue; what is left out takes the service's default.

        Without a `method` it is LoRA; an empty message, like `FullMethod()`, takes all defaults.
        `dataset` is a dataset (its newest version) or one version of it. The result becomes a new
        version of `model`, by default the model named like the dataset. With `start_from`, a
        version or an alias, training goes on from its parameters. `backend` is what trains, by
        default Anneal's engine. It waits for a node that has what `requirements` ask for; jobs of
        a higher `priority` come before it. At `deadline_time` (without a zone: this machine's) its
        training is stopped, and the best of its checkpoints becomes the result. With
        `validate_only` everything is checked and nothing made.
        """
        job = self.describe(
            dataset,
            base_model,
            method=method,
            training=training,
            model=model,
            start_from=start_from,
            seed=seed,
            max_attempts=max_attempts,
            backend=backend,
            labels=labels,
            priority=priority,
            requirements=requirements,
            deadline_time=deadline_time,
        )
        return self.submit(job, job_id=job_id, validate_only=validate_only)

    def describe(
        self,
        dataset: str,
        base_model: str,
        *,
        method: Method | None = None,
        training: TrainingParameters | None = None,
        model: str = "",
        start_from: str = "",
        seed: int = 0,
        max_attempts: int = 0,
        backend: Backend.ValueType = BACKEND_UNSPECIFIED,
        labels: Mapping[str, str] | None = None,
        priority: Priority.ValueType = PRIORITY_UNSPECIFIED,
        requirements: Requirements | None = None,
        deadline_time: datetime | None = None,
    ) -> TuningJob:
        """Returns the job that `create` asks for, without asking.

        Without a `method` it has none: `estimate` and `recommend` then look at each of them, and
        `submit` and a sweep take LoRA.
        """
        job = TuningJob(
            dataset_version=self._names.dataset_version(dataset),
            base_model=self._names.base_model(base_model),
            model=self._names.model(model) if model else "",
            start_version=self._names.model_version_or_alias(start_from) if start_from else "",
            training=training,
            seed=seed,
            max_attempts=max_attempts,
            backend=backend,
            labels=labels or {},
            priority=priority,
            requirements=requirements,
            deadline_time=_timestamp(deadline_time),
        )
        if method is not None:
            job.MergeFrom(_with_method(method))
        return job

    def submit(self, job: TuningJob, *, job_id: str = "", validate_only: bool = False) -> TuningJob:
        """Puts a job into the queue that is described already; without a method it is LoRA."""
        request = CreateTuningJobRequest(
            parent=self._names.parent,
            tuning_job_id=job_id,
            tuning_job=or_lora(job),
            request_id=new_request_id(),
            validate_only=validate_only,
        )
        return self._connection.ask(self._rpc.CreateTuningJob, request)

    def estimate(
        self,
        job: TuningJob,
        *,
        device: Device | None = None,
        architecture: ModelArchitecture | None = None,
        mean_example_tokens: float = 0.0,
        price_per_hour: float = 0.0,
    ) -> EstimateTuningJobResponse:
        """Returns what a described job would take; one without a method, by each of the five.

        What is left out is what the service knows: the largest device of its nodes, how the base
        model is built, and a guess from the size of the dataset.
        """
        request = EstimateTuningJobRequest(
            parent=self._names.parent,
            tuning_job=job,
            device=device,
            architecture=architecture,
            mean_example_tokens=mean_example_tokens,
            price_per_hour=price_per_hour,
        )
        return self._connection.ask(self._rpc.EstimateTuningJob, request)

    def recommend(
        self,
        job: TuningJob,
        *,
        target: RecommendMethodRequest.Target.ValueType = RecommendMethodRequest.TARGET_LOCAL,
        device: Device | None = None,
        architecture: ModelArchitecture | None = None,
        mean_example_tokens: float = 0.0,
        price_per_hour: float = 0.0,
    ) -> RecommendMethodResponse:
        """Returns the methods that `target` can serve for a described job without a method, the
        best first, with reasons and estimates. What is left out is as for `estimate`."""
        request = RecommendMethodRequest(
            parent=self._names.parent,
            tuning_job=job,
            device=device,
            architecture=architecture,
            mean_example_tokens=mean_example_tokens,
            price_per_hour=price_per_hour,
            target=target,
        )
        return self._connection.ask(self._rpc.RecommendMethod, request)

    def get(self, job: str) -> TuningJob:
        request = GetTuningJobRequest(name=self._names.tuning_job(job))
        return self._connection.ask(self._rpc.GetTuningJob, request)

    def list(self, *, filter_text: str = "") -> Iterator[TuningJob]:
        """Yields the project's jobs, newest first; `filter_text` is AIP-160 (`state = RUNNING`)."""

        def page(token: str) -> tuple[Iterable[TuningJob], str]:
            request = ListTuningJobsRequest(
                parent=self._names.parent, page_token=token, filter=filter_text
            )
            answer = self._connection.ask(self._rpc.ListTuningJobs, request)
            return answer.tuning_jobs, answer.next_page_token

        return items_of_pages(page)

    def cancel(self, job: str, *, etag: str = "") -> TuningJob:
        request = CancelTuningJobRequest(
            name=self._names.tuning_job(job), etag=etag, request_id=new_request_id()
        )
        return self._connection.ask(self._rpc.CancelTuningJob, request)

    def pause(self, job: str, *, etag: str = "") -> TuningJob:
        """Has a job wait until it is resumed: at once when it is queued; when it runs it is PAUSING
        until its node has stored a checkpoint."""
        request = PauseTuningJobRequest(
            name=self._names.tuning_job(job), etag=etag, request_id=new_request_id()
        )
        return self._connection.ask(self._rpc.PauseTuningJob, request)

    def resume(self, job: str, *, etag: str = "") -> TuningJob:
        """Queues a PAUSED job again; it goes on from its last checkpoint."""
        request = ResumeTuningJobRequest(
            name=self._names.tuning_job(job), etag=etag, request_id=new_request_id()
        )
        return self._connection.ask(self._rpc.ResumeTuningJob, request)

    def retry(
        self, job: str, *, job_id: str = "", deadline_time: datetime | None = None
    ) -> TuningJob:
        """Makes a new job of a FAILED one, which goes on from its last good checkpoint. It has no
        deadline but the one given here."""
        request = RetryTuningJobRequest(
            name=self._names.tuning_job(job),
            tuning_job_id=job_id,
            request_id=new_request_id(),
            deadline_time=_timestamp(deadline_time),
        )
        return self._connection.ask(self._rpc.RetryTuningJob, request)

    def attempts(self, job: str) -> Iterator[TuningJobAttempt]:
        """Yields the attempts of a job, the first first: on which node, how it ended, what it
        did."""
        name = self._names.tuning_job(job)

        def page(token: str) -> tuple[Iterable[TuningJobAttempt], str]:
            request = ListTuningJobAttemptsRequest(parent=name, page_token=token)
            answer = self._connection.ask(self._rpc.ListTuningJobAttempts, request)
            return answer.attempts, answer.next_page_token

        return items_of_pages(page)

    def watch(
        self,
        job: str,
        *,
        after_sequence: int = 0,
        timeout_s: float | None = None,
        patience_s: float = WATCH_PATIENCE_S,
    ) -> Iterator[TuningJobEvent]:
        """Yields every event after a place in the job's history, until the job has ended; one that
        is paused has not.

        A lost connection is taken up again where it broke: no event is missing and none comes
        twice. Raises what broke it when the service was away for `patience_s`, DeadlineExceeded
        after `timeout_s`.
        """
        name = self._names.tuning_job(job)
        return JobWatch(self._connection, name, patience_s, timeout_s).events(after_sequence)

    def wait(
        self,
        job: str,
        *,
        on_event: Callable[[TuningJobEvent], None] | None = None,
        timeout_s: float | None = None,
    ) -> TuningJob:
        """Returns the job when it has ended, however it ended: look at its `state`."""
        for event in self.watch(job, timeout_s=timeout_s):
            if on_event is not None:
                on_event(event)
        return self.get(job)


def or_lora(job: TuningJob) -> TuningJob:
    """Returns the job, or one of LoRA if it has no method."""
    if job.WhichOneof("method") is not None:
        return job
    whole = _with_method(LoraMethod())
    whole.MergeFrom(job)
    return whole


def _with_method(method: Method) -> TuningJob:
    """Returns a job with nothing but its method."""
    match method:
        case FullMethod():
            return TuningJob(full=method)
        case LoraMethod():
            return TuningJob(lora=method)
        case QloraMethod():
            return TuningJob(qlora=method)
        case PrefixMethod():
            return TuningJob(prefix=method)
        case AdapterMethod():
            return TuningJob(adapter=method)
        case _:
            assert_never(method)


def _timestamp(time: datetime | None) -> Timestamp | None:
    """A time without a zone is of this machine's."""
    if time is None:
        return None
    timestamp = Timestamp()
    timestamp.FromDatetime(time.astimezone())
    return timestamp
