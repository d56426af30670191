"""EstimateTuningJob over the wire."""

from typing import Any

import grpc.aio
import pytest

from anneal.registry.v1 import base_model_pb2
from anneal.trainer.v1 import estimate_pb2
from anneal.trainer.v1 import node_lease_service_pb2 as lease_pb
from anneal.trainer.v1 import tuning_job_pb2 as job_pb
from anneal.trainer.v1 import tuning_job_service_pb2 as service_pb
from tests.contract.trainer_control.world import PARENT, World, refused
from tests.unit.trainer_control.proposals import llama

GPU = estimate_pb2.Device(
    kind=estimate_pb2.Device.KIND_CUDA,
    model="NVIDIA H200",
    memory_bytes=100 * 10**9,
    bfloat16_flops=8e14,
    float32_flops=5e13,
)
LLAMA = base_model_pb2.ModelArchitecture(
    **{
        **llama().model_dump(exclude={"linear_layers"}),
        "linear_layers": [one.model_dump() for one in llama().linear_layers],
    }
)


async def estimated(
    world: World, job: dict[str, Any] | None = None, **fields: Any
) -> service_pb.EstimateTuningJobResponse:
    asked = world.draft(**(job or {}))
    if job is None:
        asked.ClearField("lora")
    request = service_pb.EstimateTuningJobRequest(
        **{
            "parent": PARENT,
            "tuning_job": asked,
            "device": GPU,
            "architecture": LLAMA,
            "mean_example_tokens": 300,
            **fields,
        }
    )
    return await world.jobs.EstimateTuningJob(request)


async def test_five_methods_are_estimated_with_time_and_cost(world: World) -> None:
    answer = await estimated(world, price_per_hour=3.0)

    assert [one.method for one in answer.estimates] == [
        "full",
        "lora",
        "qlora",
        "prefix",
        "adapter",
    ]
    assert answer.device == GPU
    for one in answer.estimates:
        memory = one.peak_memory
        parts = ("weights", "trainable", "optimizer", "activations", "runtime")
        assert memory.total_bytes == sum(getattr(memory, f"{part}_bytes") for part in parts)
        assert one.duration.ToTimedelta().total_seconds() > 0
        assert one.cost > 0
        assert (one.total_steps, one.tokens) == (3 * 34, pytest.approx(3 * 270 * 300, rel=0.01))
    full, lora = answer.estimates[:2]
    assert full.trainable_parameters == full.total_parameters == llama().parameter_count
    assert (full.fits, lora.fits) == (False, True)
    assert full.remedies
    assert not lora.remedies


async def test_one_method_is_estimated_with_its_settings(world: World) -> None:
    job = {"lora": job_pb.LoraMethod(rank=16, target_modules=["q_proj"])}
    (one,) = (await estimated(world, job)).estimates

    assert one.trainable_parameters == 32 * 16 * 2 * 4096
    assert not one.HasField("cost")


async def test_the_largest_device_of_the_nodes_is_taken(world: World) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as nobody:
        await estimated(world, device=None)
    small = estimate_pb2.Device()
    small.CopyFrom(GPU)
    small.memory_bytes //= 2
    for node, device in (("node-a", small), ("node-b", GPU)):
        request = lease_pb.ClaimTuningJobRequest(node=node, device=device)
        await world.nodes.ClaimTuningJob(request)
    answer = await estimated(world, device=None)

    fault = refused(nobody)
    assert (fault.code, fault.reason) == ("FAILED_PRECONDITION", "DEVICE_UNKNOWN")
    assert answer.device == GPU


async def test_a_base_model_of_unknown_build_needs_its_architecture(world: World) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as unknown:
        await estimated(world, architecture=None)

    fault = refused(unknown)
    assert (fault.code, fault.reason) == ("FAILED_PRECONDITION", "ARCHITECTURE_UNKNOWN")


async def test_faults_of_the_job_and_beside_it_are_told_at_once(world: World) -> None:
    layer = base_model_pb2.LinearLayers(name="q_proj", input_size=8, output_size=8)
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await estimated(
            world,
            {"base_model": "baseModels/unknown", "lora": job_pb.LoraMethod(rank=0)},
            device=estimate_pb2.Device(memory_bytes=5),
            architecture=base_model_pb2.ModelArchitecture(model_type="x", linear_layers=[layer]),
            mean_example_tokens=2_000_000,
            price_per_hour=float("nan"),
        )

    fields = set(refused(refusal).reason_of)
    assert fields >= {
        "tuning_job.base_model",
        "tuning_job.lora.rank",
        "device.kind",
        "architecture.hidden_size",
        "architecture.linear_layers.0.count",
        "mean_example_tokens",
        "price_per_hour",
    }
