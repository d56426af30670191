"""The client, and a real gRPC server with the scripted services behind it."""

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from anneal.abtest.v1.ab_test_service_pb2_grpc import add_ABTestServiceServicer_to_server
from anneal.addresses import Addresses
from anneal.client import Client
from anneal.dataset.v1.dataset_service_pb2_grpc import add_DatasetServiceServicer_to_server
from anneal.inference.v1.inference_service_pb2_grpc import add_InferenceServiceServicer_to_server
from anneal.registry.v1.registry_service_pb2_grpc import add_RegistryServiceServicer_to_server
from anneal.trainer.v1.node_service_pb2_grpc import add_NodeServiceServicer_to_server
from anneal.trainer.v1.queue_service_pb2_grpc import add_QueueServiceServicer_to_server
from anneal.trainer.v1.tuning_job_pb2 import TuningJob
from anneal.trainer.v1.tuning_job_service_pb2_grpc import add_TuningJobServiceServicer_to_server
from anneal.trainer.v1.tuning_sweep_service_pb2_grpc import (
    add_TuningSweepServiceServicer_to_server,
)
from tests.contract.anneal.scripted import VERSION_ID, World, end_event, step_event
from tests.contract.anneal.scripted_datasets import ScriptedDatasets
from tests.contract.anneal.scripted_models import (
    ScriptedExperiments,
    ScriptedInference,
    ScriptedRegistry,
)
from tests.contract.anneal.scripted_trainer import (
    ScriptedJobs,
    ScriptedNodes,
    ScriptedQueue,
    ScriptedSweeps,
)


@pytest.fixture
def world() -> World:
    return World(
        job=TuningJob(
            name="projects/default/tuningJobs/job-1",
            state=TuningJob.STATE_SUCCEEDED,
            model_version=f"projects/default/models/support/versions/{VERSION_ID}",
        ),
        events=[*(step_event(n) for n in range(1, 10)), end_event(10)],
        files={"adapter_config.json": b'{"r": 8}', "adapter_model.safetensors": bytes(23)},
    )


@pytest.fixture
def address(world: World) -> Generator[str]:
    """Where all five scripted services listen."""
    server = grpc.server(ThreadPoolExecutor(8))
    add_DatasetServiceServicer_to_server(ScriptedDatasets(world), server)
    add_TuningJobServiceServicer_to_server(ScriptedJobs(world), server)
    add_TuningSweepServiceServicer_to_server(ScriptedSweeps(world), server)
    add_NodeServiceServicer_to_server(ScriptedNodes(world), server)
    add_QueueServiceServicer_to_server(ScriptedQueue(world), server)
    add_RegistryServiceServicer_to_server(ScriptedRegistry(world), server)
    add_InferenceServiceServicer_to_server(ScriptedInference(world), server)
    add_ABTestServiceServicer_to_server(ScriptedExperiments(world), server)
    healthy = health.HealthServicer()
    healthy.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.fixture
def addresses(address: str) -> Addresses:
    return Addresses(address, address, address, address, address)


@pytest.fixture
def client(addresses: Addresses) -> Generator[Client]:
    with Client(addresses, environment={}) as client:
        yield client


@pytest.fixture
def environment(addresses: Addresses, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command finds the scripted services."""
    for variable, value in addresses.to_environment().items():
        monkeypatch.setenv(variable, value)
    for variable in ("ANNEAL_API_KEY", "ANNEAL_DATA_DIR", "ANNEAL_PROJECT"):
        monkeypatch.delenv(variable, raising=False)
