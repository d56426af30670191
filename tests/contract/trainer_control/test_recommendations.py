"""RecommendMethod over the wire."""

from typing import Any

import grpc.aio
import pytest

from anneal.registry.v1 import base_model_pb2
from anneal.trainer.v1 import estimate_pb2
from anneal.trainer.v1 import tuning_job_pb2 as job_pb
from anneal.trainer.v1 import tuning_job_service_pb2 as service_pb
from tests.contract.trainer_control.test_estimates import GPU, LLAMA
from tests.contract.trainer_control.world import PARENT, World, refused

Request = service_pb.RecommendMethodRequest


async def recommended(
    world: World, job: dict[str, Any] | None = None, **fields: Any
) -> service_pb.RecommendMethodResponse:
    asked = world.draft(**(job or {}))
    if "lora" not in (job or {}):
        asked.ClearField("lora")
    request = Request(
        **{
            "parent": PARENT,
            "tuning_job": asked,
            "device": GPU,
            "architecture": LLAMA,
            "mean_example_tokens": 300,
            **fields,
        }
    )
    return await world.jobs.RecommendMethod(request)


def methods(answer: service_pb.RecommendMethodResponse) -> list[str]:
    return [one.estimate.method for one in answer.recommendations]


async def test_all_methods_are_ranked_for_our_own_service(world: World) -> None:
    answer = await recommended(world, price_per_hour=2.0)

    assert methods(answer) == ["lora", "qlora", "adapter", "prefix", "full"]
    assert answer.device == GPU
    for one in answer.recommendations:
        assert len(one.reasons) >= 3
        assert all(reason.endswith(".") for reason in one.reasons)
        assert one.estimate.cost > 0
    assert answer.recommendations[0].reasons[0].startswith("Fits: needs ")
    assert answer.recommendations[-1].reasons[0].startswith("Does not fit: needs ")


@pytest.mark.parametrize(
    "target", [Request.TARGET_VLLM, Request.TARGET_OLLAMA, Request.TARGET_LLAMACPP]
)
async def test_what_the_target_can_not_serve_is_not_recommended(
    world: World, target: Request.Target.ValueType
) -> None:
    answer = await recommended(world, target=target)

    assert methods(answer) == ["lora", "qlora", "full"]
    words = "--max-lora-rank 8" if target == Request.TARGET_VLLM else "GGUF"
    assert words in answer.recommendations[0].reasons[-1]


async def test_what_the_backend_can_not_train_is_not_recommended(world: World) -> None:
    answer = await recommended(world, {"backend": job_pb.BACKEND_UNSLOTH})

    assert methods(answer) == ["lora", "qlora", "full"]


async def test_an_encoder_decoder_is_served_by_our_own_service_alone(world: World) -> None:
    both = base_model_pb2.ModelArchitecture()
    both.CopyFrom(LLAMA)
    both.layer_count, both.decoder_layer_count = 16, 16
    with pytest.raises(grpc.aio.AioRpcError) as elsewhere:
        await recommended(world, architecture=both, target=Request.TARGET_VLLM)

    assert refused(elsewhere).reason_of == {"target": "TARGET_LACKS_MODEL"}
    assert len(methods(await recommended(world, architecture=both))) == 5


async def test_what_is_to_be_chosen_must_not_be_set(world: World) -> None:
    job = {
        "lora": job_pb.LoraMethod(rank=0),
        "start_version": f"{PARENT}/models/support/aliases/champion",
        "training": job_pb.TrainingParameters(batch_size=0),
    }
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await recommended(
            world,
            job,
            device=estimate_pb2.Device(memory_bytes=5),
            target=99,
        )

    reasons = refused(refusal).reason_of
    assert reasons["tuning_job.method"] == "MUST_BE_UNSET"
    assert reasons["tuning_job.start_version"] == "MUST_BE_UNSET"
    assert set(reasons) == {
        "target",
        "device.kind",
        "tuning_job.method",
        "tuning_job.start_version",
        "tuning_job.training.batch_size",
    }


async def test_a_base_model_of_unknown_build_needs_its_architecture(world: World) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as unknown:
        await recommended(world, architecture=None)

    fault = refused(unknown)
    assert (fault.code, fault.reason) == ("FAILED_PRECONDITION", "ARCHITECTURE_UNKNOWN")
