"""Jobs that are too large for every node, and runs that correct the estimates of the next."""

from collections.abc import Mapping
from typing import Any

import grpc.aio
import pytest
from sqlmodel import select

from anneal.trainer.v1 import estimate_pb2 as estimate_pb
from anneal.trainer.v1 import node_lease_service_pb2 as lease_pb
from anneal.trainer.v1 import tuning_job_pb2 as job_pb
from anneal.trainer.v1 import tuning_job_service_pb2 as service_pb
from services.trainer.control.adapters.tables import ResidualRow
from services.trainer.control.domain.estimation.devices import Corrections
from services.trainer.control.domain.estimation.footprint import peak_memory
from services.trainer.control.domain.estimation.proposal import Proposal
from services.trainer.control.domain.estimation.throughput import tokens_per_second
from services.trainer.control.domain.fleet import Fleet
from services.trainer.control.domain.names import TuningJobName
from tests.contract.trainer_control.world import PARENT, World, refused

LLAMA = "baseModels/llama"
GIB = 2**30


def gpu(gib: float, model: str = "A GPU", flops: float = 1e14) -> estimate_pb.Device:
    return estimate_pb.Device(
        kind=estimate_pb.Device.KIND_CUDA,
        model=model,
        memory_bytes=round(gib * GIB),
        bfloat16_flops=flops,
        float32_flops=flops / 10,
    )


async def ask(
    world: World, device: estimate_pb.Device | None, node: str = "node-a", **fields: Any
) -> lease_pb.Lease | None:
    request = lease_pb.ClaimTuningJobRequest(node=node, device=device, **fields)
    answer = await world.nodes.ClaimTuningJob(request)
    return answer.lease if answer.HasField("lease") else None


async def expected(world: World, job: job_pb.TuningJob) -> Proposal:
    """What the formulas make of the job on the node that holds it."""
    async with world.store.reading() as tables:
        found = await tables.jobs.find(TuningJobName.parse(job.name))
        offer = await tables.nodes.find(job.node)
    assert offer is not None
    assert offer.device is not None
    assert found.spec.sizes is not None
    return found.spec.sizes.proposal(found.spec.settings, offer.device)


async def residuals(world: World) -> Mapping[str, ResidualRow]:
    async with world.store.reading() as tables:
        return {row.job: row for row in await tables.session.exec(select(ResidualRow))}


async def run(
    world: World,
    device: estimate_pb.Device,
    peak: float,
    speed: float,
    steps: int = 100,
    **job: Any,
) -> job_pb.TuningJob:
    """A job that took `peak` times the memory and had `speed` times the speed expected."""
    await world.create(**({"base_model": LLAMA} | job))
    lease = await ask(world, device, backends=[job_pb.BACKEND_BUILTIN, job_pb.BACKEND_UNSLOTH])
    assert lease is not None
    proposal = await expected(world, lease.job)
    return await world.complete(
        lease.job,
        steps=steps,
        peak_memory_bytes=peak * peak_memory(proposal).total_bytes,
        tokens_per_second=speed * tokens_per_second(proposal),
    )


async def test_a_job_that_no_node_has_the_memory_for_is_refused_with_what_would_fit(
    world: World,
) -> None:
    await ask(world, gpu(0.5), "node-small")
    await ask(world, gpu(8, "Eight GiB"))

    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await world.create(base_model=LLAMA, lora=None, full=job_pb.FullMethod())

    (violation,) = refused(refusal).violations
    assert (violation.field, violation.reason) == ("tuning_job.method", "DOES_NOT_FIT")
    assert "the largest 8.0 GiB (Eight GiB). lora fits: it needs " in violation.description
    assert (await world.create(base_model=LLAMA)).state == job_pb.TuningJob.STATE_QUEUED


async def test_a_job_that_is_only_tried_is_judged_alike(world: World) -> None:
    await ask(world, gpu(0.5))
    request = service_pb.CreateTuningJobRequest(
        parent=PARENT, tuning_job=world.draft(base_model=LLAMA), validate_only=True
    )

    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await world.jobs.CreateTuningJob(request)

    assert refused(refusal).reason_of == {"tuning_job.method": "DOES_NOT_FIT"}


async def test_what_is_not_known_refuses_nothing(world: World) -> None:
    full: Mapping[str, Any] = {"lora": None, "full": job_pb.FullMethod()}
    assert await world.create(base_model=LLAMA, **full)  # no node has told of a device
    await ask(world, None)
    assert await world.create(base_model=LLAMA, **full)
    await ask(world, gpu(0))
    assert await world.create(base_model=LLAMA, **full)  # how much memory it has is not known
    await ask(world, gpu(0.5), "node-small")
    assert await world.create(base_model=LLAMA, **full)  # it may be larger than that
    await ask(world, gpu(0.5), backends=[job_pb.BACKEND_BUILTIN, job_pb.BACKEND_UNSLOTH])
    assert await world.create(**full)  # how its base model is built is not known
    assert await world.create(base_model=LLAMA, backend=job_pb.BACKEND_UNSLOTH, **full)
    together = job_pb.Requirements(device_count=2)
    assert await world.create(base_model=LLAMA, requirements=together, **full)


async def test_a_run_corrects_the_estimates_of_its_method_on_its_device(world: World) -> None:
    done = await run(world, gpu(80), peak=1.25, speed=0.5)

    fleet = Fleet(world.store)
    (row,) = (await residuals(world)).values()
    assert (row.job, row.method, row.device_model) == (done.name, "lora", "A GPU")
    assert await fleet.of("lora", "A GPU") == Corrections(
        pytest.approx(1.25), pytest.approx(2.0), 1
    )
    assert await fleet.of("full", "A GPU") == Corrections()
    assert await fleet.of("lora", "Another GPU") == Corrections()


async def test_the_last_twenty_runs_to_be_believed_count(world: World) -> None:
    for _ in range(2):
        await run(world, gpu(80), peak=4.0, speed=1.0)
    for _ in range(20):
        await run(world, gpu(80), peak=1.5, speed=1.0)
    await run(world, gpu(80), peak=0.1, speed=0.1)

    corrections = await Fleet(world.store).of("lora", "A GPU")

    assert corrections == Corrections(pytest.approx(1.5), pytest.approx(1.0), 20)
    assert len(await residuals(world)) == 23


async def test_runs_too_short_to_tell_a_speed_leave_that_of_longer_ones(world: World) -> None:
    await run(world, gpu(80), peak=1.5, speed=0.5)
    for _ in range(20):
        await run(world, gpu(80), peak=1.25, speed=0.25, steps=10)

    corrections = await Fleet(world.store).of("lora", "A GPU")

    assert corrections == Corrections(pytest.approx(1.25), pytest.approx(2.0), 21)


async def test_a_job_that_was_not_to_fit_teaches_nothing(world: World) -> None:
    """It went on in smaller parts, and what it then took says nothing of what it asked for."""
    large = job_pb.TrainingParameters(batch_size=64, max_sequence_tokens=2048)
    await run(world, gpu(16), peak=0.5, speed=0.5, training=large)
    assert await residuals(world) == {}

    roomy = await run(world, gpu(80), peak=1.5, speed=1.0)
    formula_gib = peak_memory(await expected(world, roomy)).total_bytes / GIB
    await run(world, gpu(1.2 * formula_gib), peak=1.0, speed=1.0)
    assert set(await residuals(world)) == {roomy.name}


async def test_devices_without_a_name_tell_nothing_of_each_other(world: World) -> None:
    await run(world, gpu(80, model=""), peak=1.25, speed=0.5)

    assert await residuals(world) == {}
    assert await Fleet(world.store).of("lora", "") == Corrections()


async def test_a_run_on_several_devices_tells_nothing_of_one(world: World) -> None:
    together = job_pb.Requirements(device_count=2)
    await world.create(base_model=LLAMA, requirements=together)
    lease = await ask(world, gpu(80), free_devices=2)
    assert lease is not None
    await world.complete(lease.job, steps=100, tokens_per_second=1000)

    assert await residuals(world) == {}


async def test_a_run_that_tells_nothing_comparable_leaves_nothing(world: World) -> None:
    await run(world, gpu(80), peak=2.0, speed=2.0, backend=job_pb.BACKEND_UNSLOTH)
    for device, base_model in ((None, LLAMA), (gpu(80), "baseModels/tiny-base")):
        await world.create(base_model=base_model)
        lease = await ask(world, device)
        assert lease is not None
        await world.complete(lease.job, peak_memory_bytes=1e9, tokens_per_second=100)
    await world.create(base_model=LLAMA)
    lease = await ask(world, gpu(80))
    assert lease is not None
    await world.complete(lease.job)

    assert await residuals(world) == {}


async def test_a_result_told_twice_counts_once_and_a_failure_not_at_all(world: World) -> None:
    await world.create(base_model=LLAMA)
    lease = await ask(world, gpu(80))
    assert lease is not None
    for _ in range(2):
        await world.complete(lease.job, peak_memory_bytes=3e9)
    await world.create(base_model=LLAMA, max_attempts=1)
    lease = await ask(world, gpu(80))
    assert lease is not None
    await world.fail(lease.job, "ENGINE_ERROR")

    assert len(await residuals(world)) == 1
