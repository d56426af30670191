"""`anneal job recommend`."""

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated

import typer

from anneal.cli import device_options
from anneal.cli.estimate import time_text
from anneal.cli.job_options import JobOptions, takes_a_job
from anneal.cli.printing import (
    Format,
    OutputOption,
    as_json,
    is_terminal,
    print_json,
    print_list,
    size,
)
from anneal.cli.settings import client_for
from anneal.trainer.v1.estimate_pb2 import MethodRecommendation
from anneal.trainer.v1.tuning_job_service_pb2 import (
    RecommendMethodRequest,
    RecommendMethodResponse,
)


class Target(StrEnum):
    """What serves the result."""

    LOCAL = "local"
    VLLM = "vllm"
    OLLAMA = "ollama"
    LLAMACPP = "llamacpp"


@takes_a_job
def recommend(
    ctx: typer.Context,
    asked: JobOptions,
    target: Annotated[
        Target, typer.Option(help="What is to serve the result; local is Anneal itself.")
    ] = Target.LOCAL,
    mean_example_tokens: device_options.MeanExampleTokens = 0.0,
    price_per_hour: device_options.PricePerHour = 0.0,
    memory_gib: device_options.MemoryGib = 0.0,
    device: device_options.KindOption = None,
    bfloat16_tflops: device_options.Bfloat16Tflops = 0.0,
    float32_tflops: device_options.Float32Tflops = 0.0,
    output: OutputOption = Format.TEXT,
) -> None:
    """Tell which method suits a dataset, a base model, a device and a target, and why.

    The best comes first. --method and its options are refused: they are what is looked for.
    """
    with client_for(ctx) as client:
        found = client.jobs.recommend(
            asked.described(client),
            target=RecommendMethodRequest.Target.Value(f"TARGET_{target.upper()}"),
            device=device_options.given_device(memory_gib, device, bfloat16_tflops, float32_tflops),
            mean_example_tokens=mean_example_tokens,
            price_per_hour=price_per_hour,
        )
    if output is Format.JSON:
        print_json(as_json(found))
    else:
        _print(found)


def _print(found: RecommendMethodResponse) -> None:
    columns: dict[str, Callable[[MethodRecommendation], str]] = {
        "METHOD": lambda one: one.estimate.method,
        "PEAK": lambda one: size(one.estimate.peak_memory.total_bytes),
        "TIME": lambda one: time_text(one.estimate),
        "WHY": lambda one: " ".join(one.reasons),
    }
    print_list(found.recommendations, columns, Format.TEXT)
    if is_terminal():
        print(f"on {device_options.text(found.device)}")
