"""`anneal job recommend`, `client.jobs.recommend`, and `--auto`."""

import json

import pytest
from google.protobuf.duration_pb2 import Duration

from anneal.cli import printing
from anneal.cli.root import run
from anneal.client import Client
from anneal.trainer.v1.estimate_pb2 import (
    Device,
    MethodRecommendation,
    PeakMemory,
    TuningEstimate,
)
from anneal.trainer.v1.tuning_job_service_pb2 import (
    RecommendMethodRequest,
    RecommendMethodResponse,
)
from tests.contract.anneal.scripted import World

pytestmark = pytest.mark.usefixtures("environment")

Captured = pytest.CaptureFixture[str]
RECOMMENDED = RecommendMethodResponse(
    device=Device(kind=Device.KIND_CPU, memory_bytes=24_000_000_000),
    recommendations=[
        MethodRecommendation(
            estimate=TuningEstimate(
                method="lora",
                peak_memory=PeakMemory(total_bytes=900_000_000),
                duration=Duration(seconds=75),
                fits=True,
            ),
            reasons=["Fits: needs 0.9 GiB of 22.4 GiB.", "Trains 0.90% of the parameters."],
        ),
        MethodRecommendation(estimate=TuningEstimate(method="full"), reasons=["Does not fit."]),
    ],
)


def asked_by(world: World, options: str = "") -> RecommendMethodRequest:
    assert run(["job", "recommend", "--dataset", "d", "--base", "b", *options.split()]) == 0
    return world.requests("RecommendMethod")[-1]


def test_no_method_is_asked_with_unless_one_is_said(world: World) -> None:
    request = asked_by(world, "--epochs 2 --mean-example-tokens 130 --price-per-hour 2.5")

    assert request.parent == "projects/default"
    assert request.tuning_job.WhichOneof("method") is None
    assert request.tuning_job.training.epochs == 2
    assert (request.mean_example_tokens, request.price_per_hour) == (130, 2.5)
    assert request.target == RecommendMethodRequest.TARGET_LOCAL
    # The service says why a method is out of place here.
    assert asked_by(world, "--rank 4").tuning_job.lora.rank == 4


def test_a_target_and_a_device_can_be_given(world: World) -> None:
    request = asked_by(world, "--target llamacpp --memory-gib 24 --device cpu --float32-tflops 0.2")

    assert request.target == RecommendMethodRequest.TARGET_LLAMACPP
    assert request.device == Device(
        kind=Device.KIND_CPU, memory_bytes=24 * 2**30, float32_flops=2e11
    )


def test_the_best_comes_first_with_its_reasons(
    world: World, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.recommended = RECOMMENDED
    asked_by(world)
    lora, full = capsys.readouterr().out.splitlines()
    why = "Fits: needs 0.9 GiB of 22.4 GiB. Trains 0.90% of the parameters."
    assert lora.split("\t") == ["lora", "900.0 MB", "1:15", why]
    assert full.split("\t")[3] == "Does not fit."

    monkeypatch.setattr(printing, "is_terminal", lambda: True)
    monkeypatch.setattr("anneal.cli.recommend.is_terminal", lambda: True)
    asked_by(world)
    assert "on cpu with 24.0 GB" in capsys.readouterr().out


def test_json_is_the_whole_answer(world: World, capsys: Captured) -> None:
    world.recommended = RECOMMENDED
    asked_by(world, "-o json")
    told = json.loads(capsys.readouterr().out)

    assert [one["estimate"]["method"] for one in told["recommendations"]] == ["lora", "full"]
    assert told["recommendations"][1]["reasons"] == ["Does not fit."]


def test_the_client_asks_for_a_described_job(world: World, client: Client) -> None:
    world.recommended = RECOMMENDED
    job = client.jobs.describe("support", "tiny-base")
    vllm = RecommendMethodRequest.TARGET_VLLM

    assert client.jobs.recommend(job, target=vllm, mean_example_tokens=80) == RECOMMENDED
    (request,) = world.requests("RecommendMethod")
    assert (request.target, request.mean_example_tokens) == (vllm, 80)
    assert request.tuning_job.WhichOneof("method") is None


@pytest.mark.parametrize(
    ("command", "rpc"),
    [("create", "CreateTuningJob"), ("estimate", "EstimateTuningJob")],
)
def test_auto_leaves_what_is_not_said_to_the_service(world: World, command: str, rpc: str) -> None:
    options = ["--dataset", "d", "--base", "b", "--auto", "--epochs", "2"]
    assert run(["job", command, *options]) == 0
    training = world.requests(rpc)[-1].tuning_job.training

    assert training.auto
    assert {field.name for field, _ in training.ListFields()} == {"auto", "epochs"}
