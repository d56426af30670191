"""What a node makes of the service's answers, over a real connection."""

import asyncio
import importlib.metadata
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from anneal.trainer.v1 import estimate_pb2
from anneal.trainer.v1 import node_lease_service_pb2 as pb
from anneal.trainer.v1.node_lease_service_pb2_grpc import (
    NodeLeaseServiceServicer,
    NodeLeaseServiceStub,
    add_NodeLeaseServiceServicer_to_server,
)
from anneal.trainer.v1.tuning_job_pb2 import BACKEND_BUILTIN, Checkpoint, TuningJob
from anneal.transport import open_channel
from services.common.channels import SERVER_OPTIONS
from services.common.faults import (
    Aborted,
    Fault,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)
from services.common.ids import new_uid
from services.common.server import ServerSettings, Service, running
from services.trainer.control.domain.node_leases import LeasePolicy
from services.trainer.node.capabilities import About, SelfTest
from services.trainer.node.device import Host
from services.trainer.node.lease import (
    Beat,
    Cause,
    Directive,
    Failure,
    Lease,
    LeaseLost,
    LocalBase,
    Result,
    StoredCheckpoint,
)
from services.trainer.node.leases_grpc import NODE_CHANNEL_OPTIONS, GrpcLeases, Refused

LEASE = Lease(
    job="projects/default/tuningJobs/first",
    uid="0a1b",
    attempt=2,
    duration_s=30,
    dataset_digest="ab" * 32,
    base=LocalBase("cd" * 32),
    seed=0,
    method={},
    training={},
)


class LeaseService(NodeLeaseServiceServicer):
    """Keeps what it is asked, and raises `fault` while there is one."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.lease: pb.Lease | None = None
        self.answer = pb.HeartbeatTuningJobResponse()
        self.fault: Exception | None = None
        self.silent_s = 0.0

    async def ClaimTuningJob(self, request: Any, context: Any) -> pb.ClaimTuningJobResponse:
        self._answer(request)
        return pb.ClaimTuningJobResponse(lease=self.lease)

    async def HeartbeatTuningJob(self, request: Any, context: Any) -> pb.HeartbeatTuningJobResponse:
        await asyncio.sleep(self.silent_s)
        self._answer(request)
        return self.answer

    async def CompleteTuningJob(self, request: Any, context: Any) -> TuningJob:
        self._answer(request)
        return TuningJob()

    async def FailTuningJob(self, request: Any, context: Any) -> TuningJob:
        self._answer(request)
        return TuningJob()

    def _answer(self, request: Any) -> None:
        self.asked.append(request)
        if self.fault is not None:
            raise self.fault


@pytest.fixture
def service() -> LeaseService:
    return LeaseService()


@asynccontextmanager
async def lease_calls(
    service: LeaseService, about: About | None = None
) -> AsyncGenerator[GrpcLeases]:
    name = "anneal.trainer.v1.NodeLeaseService"
    served = Service(name, add_NodeLeaseServiceServicer_to_server, service)
    settings = ServerSettings(drain_s=0, grace_s=0.1)
    async with running(settings, [served], {}) as address, open_channel(address) as channel:
        host = Host(1, speed_limit_s=0)
        stub = NodeLeaseServiceStub(channel)
        yield GrpcLeases(stub, "node-a", new_uid, host, ("builtin",), about)


@pytest.fixture
async def leases(service: LeaseService) -> AsyncGenerator[GrpcLeases]:
    async with lease_calls(service) as calls:
        yield calls


def calls(leases: GrpcLeases) -> tuple[Callable[[], Any], ...]:
    """The three calls under a lease."""
    return (
        lambda: leases.heartbeat(LEASE, Beat(3)),
        lambda: leases.complete(LEASE, Result("ef" * 32, "cd" * 32, "1"), 7),
        lambda: leases.fail(LEASE, Failure(Cause.STORAGE, "no disk"), 7),
    )


@pytest.mark.parametrize(
    "fault", [Aborted("STALE_ATTEMPT", "attempt 2 has ended"), NotFound("the job")], ids=str
)
async def test_a_stale_attempt_and_a_job_that_is_no_more_lose_the_lease(
    leases: GrpcLeases, service: LeaseService, fault: Fault
) -> None:
    service.fault = fault
    for call in calls(leases):
        with pytest.raises(LeaseLost):
            await call()


@pytest.mark.parametrize(
    "fault",
    [
        Aborted("WRITE_CONFLICT", "another transaction was faster"),
        Unavailable("DATABASE_UNAVAILABLE", "the database does not answer"),
        ResourceExhausted("TOO_MANY", "slow down"),
        ZeroDivisionError("a bug"),
    ],
    ids=str,
)
async def test_what_may_pass_does_not_lose_the_lease(
    leases: GrpcLeases, service: LeaseService, fault: Exception
) -> None:
    service.fault = fault
    for call in (*calls(leases), lambda: leases.claim(0, 1)):
        with pytest.raises(Unavailable):
            await call()


@pytest.mark.parametrize(
    "fault",
    [
        PermissionDenied("PERMISSION_DENIED", "this key may not lease"),
        InvalidArgument.of("node", "must be an id"),
    ],
    ids=str,
)
async def test_a_refusal_says_what_is_wrong_with_the_node(
    leases: GrpcLeases, service: LeaseService, fault: Fault
) -> None:
    service.fault = fault
    for call in (*calls(leases), lambda: leases.claim(0, 1)):
        with pytest.raises(Refused, match="the trainer refuses this node: "):
            await call()


async def test_a_claim_tells_what_the_node_trains_on_and_with(
    leases: GrpcLeases, service: LeaseService
) -> None:
    device = await Host(1, speed_limit_s=0).device()

    await leases.claim(0, 1)

    (request,) = service.asked
    assert request.device == estimate_pb2.Device(
        kind=estimate_pb2.Device.Kind.Value(f"KIND_{device.kind.upper()}"),
        model=device.model,
        memory_bytes=device.memory_bytes,
    )
    assert request.device.memory_bytes > 0
    assert request.backends == [BACKEND_BUILTIN]


async def test_a_node_that_stops_asks_for_what_an_unanswered_claim_got_and_no_more(
    leases: GrpcLeases, service: LeaseService
) -> None:
    assert await leases.granted() is None
    service.fault = Unavailable("DATABASE_UNAVAILABLE", "the database does not answer")
    with pytest.raises(Unavailable):
        await leases.claim(0, 1)
    service.fault = None
    service.lease = pb.Lease(out_of_memory_attempts=[1, 3])
    service.lease.job.name = LEASE.job

    granted = await leases.granted()

    claim, question = service.asked[0], service.asked[-1]
    assert (question.stopping, question.request_id) == (True, claim.request_id)
    assert granted is not None
    assert (granted.job, granted.out_of_memory_attempts) == (LEASE.job, (1, 3))
    assert await leases.granted() is None


async def test_a_claim_tells_what_the_node_has_and_is_known_by(service: LeaseService) -> None:
    self_test = SelfTest(
        1, 20, (sys.executable, "-c", 'print(\'{"method": "lora", "error": ""}\')')
    )
    about = About({"gpu": "h200"}, device_count=8, engine_count=2, self_test=self_test)
    async with lease_calls(service, about) as leases:
        await leases.claim(0, 5)
        await self_test.ended()
        await leases.claim(0, 5)

    first, second = service.asked
    assert (first.labels, first.free_devices) == ({"gpu": "h200"}, 5)
    assert (first.capabilities.device_count, first.capabilities.engine_count) == (8, 2)
    assert first.capabilities.torch_version == importlib.metadata.version("torch")
    assert first.capabilities.code_version == importlib.metadata.version("anneal")
    assert list(first.capabilities.tested_methods) == []
    assert list(second.capabilities.tested_methods) == ["lora"]


async def test_a_lease_interrupts_the_node_s_test_of_itself(service: LeaseService) -> None:
    self_test = SelfTest(1, 60, (sys.executable, "-c", "import time; time.sleep(60)"))
    async with lease_calls(service, About(self_test=self_test)) as leases:
        await leases.claim(0, 1)
        service.lease = pb.Lease()
        await leases.claim(0, 1)
        await asyncio.wait_for(self_test.ended(), 5)
    assert self_test.tested == self_test.failed == ()


async def test_an_unanswered_claim_is_repeated_under_its_own_id(
    leases: GrpcLeases, service: LeaseService
) -> None:
    service.fault = Aborted("CLAIM_IN_PROGRESS", "ask again")
    with pytest.raises(Unavailable):
        await leases.claim(0, 1)
    service.fault = None
    assert await leases.claim(0, 1) is None
    assert await leases.claim(0, 1) is None
    first, again, next_one = (request.request_id for request in service.asked)
    assert first == again != next_one


@pytest.mark.parametrize("cause", Cause)
async def test_each_cause_is_told_by_its_name(
    leases: GrpcLeases, service: LeaseService, cause: Cause
) -> None:
    await leases.fail(LEASE, Failure(cause, "why"), 7)
    (request,) = service.asked
    assert request.cause == pb.FailTuningJobRequest.Cause.Value(f"CAUSE_{cause.name}")


@pytest.mark.parametrize("directive", Directive)
async def test_a_heartbeat_and_a_lease_bring_word_of_what_is_wanted(
    leases: GrpcLeases, service: LeaseService, directive: Directive
) -> None:
    word = "UNSPECIFIED" if directive is Directive.TRAIN else directive.name
    number = pb.Directive.Value(f"DIRECTIVE_{word}")
    service.answer.directive = number
    service.lease = pb.Lease(directive=number)
    assert await leases.heartbeat(LEASE, Beat(3)) is directive
    lease = await leases.claim(0, 1)
    assert lease is not None
    assert lease.directive is directive


async def test_what_a_service_of_another_version_wants_is_understood_as_far_as_can_be(
    leases: GrpcLeases, service: LeaseService
) -> None:
    service.answer = pb.HeartbeatTuningJobResponse(cancel_requested=True)
    assert await leases.heartbeat(LEASE, Beat(3)) is Directive.CANCEL
    service.answer = pb.HeartbeatTuningJobResponse(directive=99)
    assert await leases.heartbeat(LEASE, Beat(3)) is Directive.TRAIN


async def test_a_heartbeat_tells_how_far_the_training_is(
    leases: GrpcLeases, service: LeaseService
) -> None:
    await leases.heartbeat(LEASE, Beat(3))
    (request,) = service.asked
    assert (request.name, request.attempt, request.step) == (LEASE.job, 2, 3)
    assert not request.HasField("checkpoint")


async def test_a_heartbeat_without_an_answer_leaves_time_for_another(
    leases: GrpcLeases, service: LeaseService
) -> None:
    service.silent_s = 3
    began_s = time.monotonic()

    with pytest.raises(Unavailable):
        await leases.heartbeat(replace(LEASE, duration_s=3), Beat(3))

    assert time.monotonic() - began_s < 3 - 1


def test_a_dead_connection_is_replaced_while_the_lease_lasts() -> None:
    options = dict(NODE_CHANNEL_OPTIONS)
    found_ms = int(options["grpc.keepalive_time_ms"]) + int(options["grpc.http2.ping_timeout_ms"])
    assert found_ms / 1000 < LeasePolicy().lease_s - 10
    wanted_ms = dict(SERVER_OPTIONS)["grpc.http2.min_ping_interval_without_data_ms"]
    assert options["grpc.keepalive_time_ms"] > wanted_ms, "it would be sent away"


async def test_a_heartbeat_tells_of_what_is_stored_and_what_is_of_no_use(
    leases: GrpcLeases, service: LeaseService
) -> None:
    stored = StoredCheckpoint(2, 50, "ab" * 32, 7, 0.5)
    refused = StoredCheckpoint(1, 400, "cd" * 32, 7)

    await leases.heartbeat(LEASE, Beat(50, stored, refused))

    (request,) = service.asked
    assert request.checkpoint == Checkpoint(
        attempt=2, step=50, manifest_digest="ab" * 32, size_bytes=7, validation_loss=0.5
    )
    (told,) = request.refused_checkpoints
    assert (told.attempt, told.step, told.HasField("validation_loss")) == (1, 400, False)


async def test_a_lease_tells_what_earlier_attempts_left(
    leases: GrpcLeases, service: LeaseService
) -> None:
    evaluated = Checkpoint(attempt=1, step=40, manifest_digest="ab" * 32, validation_loss=0.0)
    not_evaluated = Checkpoint(
        attempt=1, step=30, manifest_digest="cd" * 32, size_bytes=7, job_uid="ffff"
    )
    job = TuningJob(name=LEASE.job, uid="0a1b", attempt=2)
    service.lease = pb.Lease(job=job, checkpoints=[evaluated, not_evaluated])

    lease = await leases.claim(0, 1)

    assert lease is not None
    assert lease.checkpoints == (
        StoredCheckpoint(1, 40, "ab" * 32, 0, 0.0),
        StoredCheckpoint(1, 30, "cd" * 32, 7, None, "ffff"),
    )
    assert lease.owner_of(1, 40) == "tuning-jobs/0a1b/1-40"
