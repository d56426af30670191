"""A player of callers and nodes against a served control plane."""

from dataclasses import dataclass, field, replace
from typing import Any

import grpc
import grpc.aio
import pytest

from anneal.trainer.v1 import node_lease_service_pb2 as lease_pb
from anneal.trainer.v1 import tuning_job_pb2 as job_pb
from anneal.trainer.v1 import tuning_job_service_pb2 as service_pb
from services.common.blobs import Blobs
from services.common.bus import Bus
from services.common.faults import Unavailable
from services.common.store import Store
from services.trainer.control.domain.estimation.architecture import Architecture, LinearLayers
from services.trainer.control.domain.job import ManifestSource
from services.trainer.control.domain.names import (
    BaseModelName,
    DatasetVersionName,
    ModelAliasName,
    ModelVersionName,
)
from services.trainer.control.domain.node_leases import LeasePolicy
from services.trainer.control.domain.ports import BaseModel, DatasetVersion, ModelVersion
from tests.contract.refusals import Refusal

PARENT = "projects/default"
DIGEST = "ab" * 32
ADAPTER = "cd" * 32


@dataclass
class KnownDatasets:
    """The dataset service's answers; `calls` counts the questions."""

    versions: dict[str, DatasetVersion] = field(default_factory=dict)
    calls: int = 0
    down: bool = False

    async def resolve(self, name: DatasetVersionName) -> DatasetVersion | None:
        self.calls += 1
        if self.down:
            raise Unavailable("DEPENDENCY_DOWN", "the dataset service does not answer")
        return self.versions.get(str(name))


@dataclass
class KnownBaseModels:
    models: dict[str, BaseModel] = field(default_factory=dict)

    async def find(self, name: BaseModelName) -> BaseModel | None:
        return self.models.get(str(name))


@dataclass
class KnownModelVersions:
    """The registry's answers, by version and by alias."""

    versions: dict[str, ModelVersion] = field(default_factory=dict)

    async def resolve(self, name: ModelVersionName | ModelAliasName) -> ModelVersion | None:
        return self.versions.get(str(name))


def known_datasets() -> KnownDatasets:
    name = DatasetVersionName("default", "support", "v-1234567890abcdef")
    version = DatasetVersion(name, DIGEST, 300)
    latest = str(replace(name, version="latest"))
    return KnownDatasets({str(name): version, latest: version})


LLAMA = Architecture(
    model_type="llama",
    parameter_count=1_235_814_400,
    hidden_size=2048,
    layer_count=16,
    head_count=32,
    key_value_head_count=8,
    head_size=64,
    intermediate_size=8192,
    gated_feed_forward=True,
    vocabulary_size=128_256,
    tied_embeddings=True,
    linear_layers=(
        LinearLayers(name="q_proj", input_size=2048, output_size=2048, count=16),
        LinearLayers(name="k_proj", input_size=2048, output_size=512, count=16),
        LinearLayers(name="v_proj", input_size=2048, output_size=512, count=16),
        LinearLayers(name="o_proj", input_size=2048, output_size=2048, count=16),
        LinearLayers(name="gate_proj", input_size=2048, output_size=8192, count=16),
        LinearLayers(name="up_proj", input_size=2048, output_size=8192, count=16),
        LinearLayers(name="down_proj", input_size=8192, output_size=2048, count=16),
    ),
)


def known_base_models() -> KnownBaseModels:
    """One whose build is not known, and one of 1.2 billion parameters."""
    tiny, llama = BaseModelName("tiny-base"), BaseModelName("llama")
    source = ManifestSource("ee" * 32)
    stored_bytes = 2 * LLAMA.parameter_count
    models = (
        BaseModel(tiny, source.digest, source),
        BaseModel(llama, source.digest, source, stored_bytes, LLAMA),
    )
    return KnownBaseModels({str(model.name): model for model in models})


def known_model_versions() -> KnownModelVersions:
    """Support's one version, a LoRA of all defaults; the alias champion stands for it."""
    version = ModelVersion(
        name=ModelVersionName("default", "support", "v-fedcba0987654321"),
        manifest_digest=ADAPTER,
        base_model="baseModels/tiny-base",
        base_model_digest="ee" * 32,
        method="lora",
        hyperparameters={"rank": 8.0, "alpha": 16.0, "dropout": 0.1, "target_modules": []},
    )
    champion = ModelAliasName("default", "support", "champion")
    return KnownModelVersions({str(version.name): version, str(champion): version})


FAST = LeasePolicy(
    lease_s=30, claim_poll_s=0.1, events_grace_s=0.3, reap_every_s=0.05, retry_delay_s=0
)


@dataclass
class World:
    """Everything a test needs to play callers and nodes."""

    address: str
    jobs: Any
    nodes: Any
    bus: Bus
    store: Store[Any]
    blobs: Blobs
    datasets: KnownDatasets

    def draft(self, **fields: Any) -> job_pb.TuningJob:
        given: dict[str, Any] = {
            "base_model": "baseModels/tiny-base",
            "dataset_version": f"{PARENT}/datasets/support/versions/latest",
            "lora": job_pb.LoraMethod(),
        }
        return job_pb.TuningJob(**(given | fields))

    async def create(self, job_id: str = "", **fields: Any) -> job_pb.TuningJob:
        return await self.jobs.CreateTuningJob(
            service_pb.CreateTuningJobRequest(
                parent=PARENT, tuning_job_id=job_id, tuning_job=self.draft(**fields)
            )
        )

    async def get(self, name: str) -> job_pb.TuningJob:
        return await self.jobs.GetTuningJob(service_pb.GetTuningJobRequest(name=name))

    async def cancel(self, name: str, etag: str = "") -> job_pb.TuningJob:
        return await self.jobs.CancelTuningJob(
            service_pb.CancelTuningJobRequest(name=name, etag=etag)
        )

    async def claim(
        self, node: str = "node-a", wait_s: float = 0, request_id: str = ""
    ) -> lease_pb.Lease | None:
        request = lease_pb.ClaimTuningJobRequest(node=node, request_id=request_id)
        request.wait.FromMilliseconds(round(wait_s * 1000))
        answer = await self.nodes.ClaimTuningJob(request)
        return answer.lease if answer.HasField("lease") else None

    async def heartbeat(
        self, job: job_pb.TuningJob, **told: Any
    ) -> lease_pb.HeartbeatTuningJobResponse:
        return await self.nodes.HeartbeatTuningJob(
            lease_pb.HeartbeatTuningJobRequest(name=job.name, attempt=job.attempt, **told)
        )

    async def complete(
        self,
        job: job_pb.TuningJob,
        digest: str = ADAPTER,
        event_count: int = 0,
        **metrics: float,
    ) -> job_pb.TuningJob:
        return await self.nodes.CompleteTuningJob(
            lease_pb.CompleteTuningJobRequest(
                name=job.name,
                attempt=job.attempt,
                manifest_digest=digest,
                code_version="1.2.3",
                metrics={"training_loss": 0.5, **metrics},
                event_count=event_count,
            )
        )

    async def fail(
        self, job: job_pb.TuningJob, cause: str, message: str = "", event_count: int = 0
    ) -> job_pb.TuningJob:
        return await self.nodes.FailTuningJob(
            lease_pb.FailTuningJobRequest(
                name=job.name,
                attempt=job.attempt,
                cause=lease_pb.FailTuningJobRequest.Cause.Value(f"CAUSE_{cause}"),
                message=message,
                event_count=event_count,
            )
        )

    async def tell(self, job: job_pb.TuningJob, number: int, **event: Any) -> None:
        """What a node publishes: a step, unless another event is given."""
        told = event or {"step": step_event(number)}
        message = job_pb.TuningJobEvent(attempt=job.attempt, attempt_sequence=number, **told)
        _, project, _, job_id = job.name.split("/")
        await self.bus.publish(
            f"anneal.jobs.{project}.{job_id}.events",
            message.SerializeToString(),
            f"{job.name}:{job.attempt}:{number}",
        )

    def watch(self, name: str, after: int = 0) -> Any:
        request = service_pb.WatchTuningJobRequest(name=name, after_sequence=after)
        return self.jobs.WatchTuningJob(request)

    async def history(self, name: str, after: int = 0) -> list[job_pb.TuningJobEvent]:
        """All events of a job that has ended."""
        return [answer.event async for answer in self.watch(name, after)]

    async def heard(self, name: str, count: int) -> list[job_pb.TuningJobEvent]:
        """The first `count` events, as soon as there are so many."""
        events: list[job_pb.TuningJobEvent] = []
        watch = self.watch(name)
        async for answer in watch:
            events.append(answer.event)
            if len(events) == count:
                break
        watch.cancel()
        return events


def step_event(step: int, total_steps: int = 10) -> job_pb.TrainingStep:
    return job_pb.TrainingStep(
        step=step,
        total_steps=total_steps,
        epoch=0.5,
        loss=1 / step,
        best_loss=1 / step,
        progress_percent=100 * step / total_steps,
    )


def refused(caught: pytest.ExceptionInfo[grpc.aio.AioRpcError]) -> Refusal:
    return Refusal.of(caught.value)
