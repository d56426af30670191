"""What a node makes of the service's answers, over a real connection."""

from collections.abc import AsyncGenerator, Callable
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
from services.trainer.node.device import Host
from services.trainer.node.lease import (
    Beat,
    Cause,
    Failure,
    Lease,
    LeaseLost,
    LocalBase,
    Result,
    StoredCheckpoint,
)
from services.trainer.node.leases_grpc import GrpcLeases, Refused

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
        self.fault: Exception | None = None

    async def ClaimTuningJob(self, request: Any, context: Any) -> pb.ClaimTuningJobResponse:
        self._answer(request)
        return pb.ClaimTuningJobResponse(lease=self.lease)

    async def HeartbeatTuningJob(self, request: Any, context: Any) -> pb.HeartbeatTuningJobResponse:
        self._answer(request)
        return pb.HeartbeatTuningJobResponse(cancel_requested=True)

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


@pytest.fixture
async def leases(service: LeaseService) -> AsyncGenerator[GrpcLeases]:
    name = "anneal.trainer.v1.NodeLeaseService"
    served = Service(name, add_NodeLeaseServiceServicer_to_server, service)
    settings = ServerSettings(drain_s=0, grace_s=0.1)
    async with running(settings, [served], {}) as address, open_channel(address) as channel:
        yield GrpcLeases(NodeLeaseServiceStub(channel), "node-a", new_uid, Host(1, speed_limit_s=0))


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
    for call in (*calls(leases), lambda: leases.claim(0)):
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
    for call in (*calls(leases), lambda: leases.claim(0)):
        with pytest.raises(Refused, match="the trainer refuses this node: "):
            await call()


async def test_a_claim_tells_what_the_node_trains_on_and_with(
    leases: GrpcLeases, service: LeaseService
) -> None:
    device = await Host(1, speed_limit_s=0).device()

    await leases.claim(0)

    (request,) = service.asked
    assert request.device == estimate_pb2.Device(
        kind=estimate_pb2.Device.Kind.Value(f"KIND_{device.kind.upper()}"),
        model=device.model,
        memory_bytes=device.memory_bytes,
    )
    assert request.device.memory_bytes > 0
    assert request.backends == [BACKEND_BUILTIN]


async def test_an_unanswered_claim_is_repeated_under_its_own_id(
    leases: GrpcLeases, service: LeaseService
) -> None:
    service.fault = Aborted("CLAIM_IN_PROGRESS", "ask again")
    with pytest.raises(Unavailable):
        await leases.claim(0)
    service.fault = None
    assert await leases.claim(0) is None
    assert await leases.claim(0) is None
    first, again, next_one = (request.request_id for request in service.asked)
    assert first == again != next_one


@pytest.mark.parametrize("cause", Cause)
async def test_each_cause_is_told_by_its_name(
    leases: GrpcLeases, service: LeaseService, cause: Cause
) -> None:
    await leases.fail(LEASE, Failure(cause, "why"), 7)
    (request,) = service.asked
    assert request.cause == pb.FailTuningJobRequest.Cause.Value(f"CAUSE_{cause.name}")


async def test_a_heartbeat_brings_word_of_a_cancel(
    leases: GrpcLeases, service: LeaseService
) -> None:
    assert await leases.heartbeat(LEASE, Beat(3))
    (request,) = service.asked
    assert (request.name, request.attempt, request.step) == (LEASE.job, 2, 3)
    assert not request.HasField("checkpoint")


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
    not_evaluated = Checkpoint(attempt=1, step=30, manifest_digest="cd" * 32, size_bytes=7)
    job = TuningJob(name=LEASE.job, uid="0a1b", attempt=2)
    service.lease = pb.Lease(job=job, checkpoints=[evaluated, not_evaluated])

    lease = await leases.claim(0)

    assert lease is not None
    assert lease.checkpoints == (
        StoredCheckpoint(1, 40, "ab" * 32, 0, 0.0),
        StoredCheckpoint(1, 30, "cd" * 32, 7, None),
    )
    assert lease.owner_of(1, 40) == "tuning-jobs/0a1b/1-40"
