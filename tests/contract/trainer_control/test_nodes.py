"""What nodes have to train on and with, and what follows for jobs."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import grpc.aio
import pytest
from sqlmodel import col, select, update

from anneal.trainer.v1 import estimate_pb2 as estimate_pb
from anneal.trainer.v1 import node_lease_service_pb2 as lease_pb
from anneal.trainer.v1 import tuning_job_pb2 as job_pb
from services.trainer.control.adapters.tables import NodeRow
from services.trainer.control.domain.departures import FORGOTTEN_AFTER, Departures
from services.trainer.control.domain.estimation.devices import Device, DeviceKind
from services.trainer.control.domain.fleet import Fleet
from services.trainer.control.domain.nodes import LATELY
from tests.contract.trainer_control.world import World, refused

BUILTIN, UNSLOTH = job_pb.BACKEND_BUILTIN, job_pb.BACKEND_UNSLOTH
GPU = estimate_pb.Device(
    kind=estimate_pb.Device.KIND_CUDA,
    model="NVIDIA H200",
    memory_bytes=150 * 10**9,
    bfloat16_flops=8e14,
    float32_flops=5e13,
)


async def ask(
    world: World,
    node: str = "node-a",
    backends: Sequence[job_pb.Backend.ValueType] = (),
    device: estimate_pb.Device | None = GPU,
) -> lease_pb.Lease | None:
    """A claim that tells of the node."""
    request = lease_pb.ClaimTuningJobRequest(node=node, backends=backends, device=device)
    answer = await world.nodes.ClaimTuningJob(request)
    return answer.lease if answer.HasField("lease") else None


async def let_time_pass(world: World, gone: timedelta) -> None:
    """As if the nodes had last asked for work so much earlier."""
    async with world.store.writing() as tables:
        then = await tables.now() - gone
        await tables.session.exec(update(NodeRow).values(update_time=then))


async def rows(world: World) -> list[NodeRow]:
    async with world.store.reading() as tables:
        return list(await tables.session.exec(select(NodeRow).order_by(col(NodeRow.name))))


async def refusal_of(world: World, **job: Any) -> dict[str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await world.create(**job)
    return dict(refused(refusal).reason_of)


async def test_a_job_goes_to_a_node_that_has_its_backend(world: World) -> None:
    first = await world.create(backend=UNSLOTH)
    second = await world.create()
    assert (first.backend, second.backend) == (UNSLOTH, BUILTIN)

    builtin = await ask(world, "node-a")
    nothing_left = await ask(world, "node-a")
    both = await ask(world, "node-b", [BUILTIN, UNSLOTH])

    assert builtin is not None
    assert builtin.job.name == second.name
    assert nothing_left is None
    assert both is not None
    assert (both.job.name, both.job.backend) == (first.name, UNSLOTH)


async def test_a_backend_that_is_not_known_here_is_no_offer_and_no_fault(world: World) -> None:
    await world.create()

    assert await ask(world, backends=[99]) is None
    assert await ask(world, backends=[99, BUILTIN]) is not None


async def test_jobs_are_refused_that_no_node_can_take(world: World) -> None:
    await ask(world, backends=[BUILTIN])

    assert await refusal_of(world, backend=UNSLOTH) == {"tuning_job.backend": "BACKEND_NOT_OFFERED"}
    assert await refusal_of(world, backend=UNSLOTH, base_model="baseModels/unknown") == {
        "tuning_job.backend": "BACKEND_NOT_OFFERED",
        "tuning_job.base_model": "BASE_MODEL_NOT_FOUND",
    }
    await ask(world, "node-b", [UNSLOTH])
    assert (await world.create(backend=UNSLOTH)).backend == UNSLOTH


async def test_a_node_that_is_gone_offers_nothing_and_none_at_all_forbids_nothing(
    world: World,
) -> None:
    await ask(world, "node-a", [BUILTIN, UNSLOTH])
    await let_time_pass(world, LATELY + timedelta(seconds=1))
    assert (await world.create(backend=UNSLOTH)).backend == UNSLOTH

    await ask(world, "node-b", [BUILTIN])

    assert "tuning_job.backend" in await refusal_of(world, backend=UNSLOTH)


async def test_a_node_that_trains_for_hours_is_still_there(world: World) -> None:
    await world.create(backend=UNSLOTH)
    await ask(world, "node-a", [BUILTIN, UNSLOTH])
    await let_time_pass(world, timedelta(hours=5))
    await ask(world, "node-b", [BUILTIN], device=None)

    assert (await world.create(backend=UNSLOTH)).backend == UNSLOTH
    assert await Fleet(world.store).largest() == Device(
        DeviceKind.CUDA, "NVIDIA H200", 150 * 10**9, 8e14, 5e13
    )


async def test_what_a_node_told_last_counts(world: World) -> None:
    fleet = Fleet(world.store)
    assert await fleet.largest() is None
    await ask(world, "node-a")
    small = estimate_pb.Device(kind=estimate_pb.Device.KIND_CPU, model="a CPU", memory_bytes=1)

    await ask(world, "node-a", device=small)
    await ask(world, "node-old", device=None)

    assert await fleet.largest() == Device(DeviceKind.CPU, "a CPU", 1)


async def test_a_node_that_asks_again_and_again_is_written_once_a_minute(world: World) -> None:
    await ask(world)
    (first,) = await rows(world)
    await ask(world)
    (again,) = await rows(world)
    await let_time_pass(world, timedelta(seconds=61))
    await ask(world)
    (later,) = await rows(world)

    assert again.update_time == first.update_time
    assert later.update_time > first.update_time - timedelta(seconds=1)


async def test_a_node_that_left_a_week_ago_is_forgotten_unless_it_had_a_job_since(
    world: World,
) -> None:
    for node in ("busy", "done"):
        await world.create()
        lease = await ask(world, node)
    assert lease is not None
    await world.complete(lease.job)
    await ask(world, "gone")
    await let_time_pass(world, FORGOTTEN_AFTER - timedelta(minutes=1))
    departures = Departures(world.store)

    await departures.forget()
    known = [row.name for row in await rows(world)]
    await let_time_pass(world, FORGOTTEN_AFTER + timedelta(minutes=1))
    await ask(world, "new")
    await departures.forget()

    assert known == ["busy", "done", "gone"]
    assert [row.name for row in await rows(world)] == ["busy", "done", "new"]


@pytest.mark.parametrize(
    ("device", "field"),
    [
        (estimate_pb.Device(model="nameless kind"), "device.kind"),
        (estimate_pb.Device(kind=1, memory_bytes=-1), "device.memory_bytes"),
        (estimate_pb.Device(kind=1, float32_flops=float("nan")), "device.float32_flops"),
        (estimate_pb.Device(kind=1, bfloat16_flops=-1), "device.bfloat16_flops"),
        (estimate_pb.Device(kind=1, model="x" * 256), "device.model"),
    ],
)
async def test_a_device_that_cannot_be_is_refused(
    world: World, device: estimate_pb.Device, field: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await ask(world, device=device)

    assert set(refused(refusal).reason_of) == {field}
