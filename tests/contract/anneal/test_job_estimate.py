"""`anneal job estimate` and `client.jobs.estimate`."""

import json

import pytest
from google.protobuf.duration_pb2 import Duration

from anneal.cli import printing
from anneal.cli.root import run
from anneal.client import Client
from anneal.trainer.v1.estimate_pb2 import Device, PeakMemory, TuningEstimate
from anneal.trainer.v1.tuning_job_pb2 import PrefixMethod
from anneal.trainer.v1.tuning_job_service_pb2 import (
    EstimateTuningJobRequest,
    EstimateTuningJobResponse,
)
from tests.contract.anneal.scripted import World

pytestmark = pytest.mark.usefixtures("environment")

Captured = pytest.CaptureFixture[str]
ESTIMATED = EstimateTuningJobResponse(
    device=Device(kind=Device.KIND_CPU, model="some cores", memory_bytes=24_000_000_000),
    estimates=[
        TuningEstimate(
            method="full",
            trainable_parameters=14_000_000,
            peak_memory=PeakMemory(total_bytes=32_000_000_000),
            least_memory_bytes=25_000_000_000,
            total_steps=120,
            tokens=96_000,
            remedies=["lora fits."],
        ),
        TuningEstimate(
            method="lora",
            trainable_parameters=110_592,
            peak_memory=PeakMemory(total_bytes=900_000_000),
            least_memory_bytes=800_000_000,
            total_steps=120,
            tokens=96_000,
            duration=Duration(seconds=75),
            cost=1.5,
            fits=True,
            calibrating_runs=4,
        ),
    ],
)


def asked_by(world: World, options: str = "") -> EstimateTuningJobRequest:
    assert run(["job", "estimate", "--dataset", "d", "--base", "b", *options.split()]) == 0
    return world.requests("EstimateTuningJob")[-1]


def test_without_a_method_all_are_asked_for(world: World) -> None:
    request = asked_by(world, "--epochs 2 --mean-example-tokens 130 --price-per-hour 2.5")

    assert request.parent == "projects/default"
    assert request.tuning_job.WhichOneof("method") is None
    assert request.tuning_job.base_model == "baseModels/b"
    assert request.tuning_job.training.epochs == 2
    assert (request.mean_example_tokens, request.price_per_hour) == (130, 2.5)
    assert not request.HasField("device")


def test_a_method_or_an_option_of_it_asks_for_it_alone(world: World) -> None:
    assert asked_by(world, "--method lora").tuning_job.WhichOneof("method") == "lora"
    assert asked_by(world, "--rank 4").tuning_job.lora.rank == 4
    assert asked_by(world, "--method full").tuning_job.WhichOneof("method") == "full"


def test_a_device_can_be_given(world: World) -> None:
    options = "--memory-gib 24 --device cpu --bfloat16-tflops 0.4 --float32-tflops 0.2"

    assert asked_by(world, options).device == Device(
        kind=Device.KIND_CPU, memory_bytes=24 * 2**30, bfloat16_flops=4e11, float32_flops=2e11
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--device cpu --float32-tflops 1", "'--device' / '--float32-tflops': tells of a device"),
        ("--bfloat16-tflops 1", "'--bfloat16-tflops': tells of a device"),
        ("--memory-gib nan", "--memory-gib: nan is not from 0 to 1073741824"),
        ("--memory-gib inf", "--memory-gib: inf is not from 0 to"),
        ("--memory-gib 1e12", "--memory-gib: 1000000000000.0 is not from 0 to"),
        ("--memory-gib -1", "--memory-gib: -1.0 is not from 0 to"),
    ],
)
@pytest.mark.parametrize("command", ["estimate", "recommend"])
def test_a_device_that_is_half_or_wrongly_said_is_refused(
    world: World, capsys: Captured, command: str, options: str, words: str
) -> None:
    assert run(["job", command, "--dataset", "d", "--base", "b", *options.split()]) == 2
    assert words in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert not world.calls


def test_a_table_tells_by_method_what_it_would_take(
    world: World, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.estimated = ESTIMATED
    asked_by(world)
    full, lora = capsys.readouterr().out.splitlines()
    assert full.split("\t") == [
        "full",
        "14,000,000",
        "32.0 GB",
        "25.0 GB",
        "no",
        "120",
        "96,000",
        "",
        "",
        "0",
    ]
    assert lora.split("\t")[4:] == ["yes", "120", "96,000", "1:15", "1.50", "4"]

    monkeypatch.setattr(printing, "is_terminal", lambda: True)
    monkeypatch.setattr("anneal.cli.estimate.is_terminal", lambda: True)
    asked_by(world)
    shown = capsys.readouterr().out
    assert "on some cores with 24.0 GB" in shown
    assert "full: lora fits." in shown


def test_json_is_the_whole_answer(world: World, capsys: Captured) -> None:
    world.estimated = ESTIMATED
    asked_by(world, "-o json")
    told = json.loads(capsys.readouterr().out)

    assert [one["method"] for one in told["estimates"]] == ["full", "lora"]
    assert told["device"]["model"] == "some cores"


def test_the_client_estimates_a_described_job(world: World, client: Client) -> None:
    world.estimated = ESTIMATED
    job = client.jobs.describe("support", "tiny-base", method=PrefixMethod(prefix_length=7))

    assert client.jobs.estimate(job, mean_example_tokens=80) == ESTIMATED
    (request,) = world.requests("EstimateTuningJob")
    assert request.tuning_job.prefix.prefix_length == 7
    client.jobs.estimate(client.jobs.describe("support", "tiny-base"))
    assert world.requests("EstimateTuningJob")[-1].tuning_job.WhichOneof("method") is None
    assert request.mean_example_tokens == 80
