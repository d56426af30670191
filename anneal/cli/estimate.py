"""`anneal job estimate`."""

from collections.abc import Callable

import typer

from anneal.cli import device_options
from anneal.cli.job_options import JobOptions, takes_a_job
from anneal.cli.printing import (
    Format,
    OutputOption,
    as_json,
    duration,
    is_terminal,
    print_json,
    print_list,
    size,
)
from anneal.cli.settings import client_for
from anneal.trainer.v1.estimate_pb2 import TuningEstimate
from anneal.trainer.v1.tuning_job_service_pb2 import EstimateTuningJobResponse


@takes_a_job
def estimate(
    ctx: typer.Context,
    asked: JobOptions,
    mean_example_tokens: device_options.MeanExampleTokens = 0.0,
    price_per_hour: device_options.PricePerHour = 0.0,
    memory_gib: device_options.MemoryGib = 0.0,
    device: device_options.KindOption = None,
    bfloat16_tflops: device_options.Bfloat16Tflops = 0.0,
    float32_tflops: device_options.Float32Tflops = 0.0,
    output: OutputOption = Format.TEXT,
) -> None:
    """Tell what a job would take: memory, steps, time, cost; nothing is created.

    Without --method and its options, by each of the five methods with their defaults.
    """
    with client_for(ctx) as client:
        found = client.jobs.estimate(
            asked.described(client),
            device=device_options.given_device(memory_gib, device, bfloat16_tflops, float32_tflops),
            mean_example_tokens=mean_example_tokens,
            price_per_hour=price_per_hour,
        )
    if output is Format.JSON:
        print_json(as_json(found))
    else:
        _print(found)


def _print(found: EstimateTuningJobResponse) -> None:
    columns: dict[str, Callable[[TuningEstimate], str]] = {
        "METHOD": lambda one: one.method,
        "TRAINED": lambda one: f"{one.trainable_parameters:,}",
        "PEAK": lambda one: size(one.peak_memory.total_bytes),
        "AT LEAST": lambda one: size(one.least_memory_bytes),
        "FITS": lambda one: "yes" if one.fits else "no",
        "STEPS": lambda one: f"{one.total_steps:,}",
        "TOKENS": lambda one: f"{one.tokens:,}",
        "TIME": time_text,
        "COST": lambda one: f"{one.cost:,.2f}" if one.HasField("cost") else "",
        "RUNS": lambda one: str(one.calibrating_runs),
    }
    print_list(found.estimates, columns, Format.TEXT)
    if not is_terminal():
        return
    print(f"on {device_options.text(found.device)}")
    for one in found.estimates:
        for remedy in one.remedies:
            print(f"{one.method}: {remedy}")


def time_text(one: TuningEstimate) -> str:
    return duration(one.duration.ToTimedelta().total_seconds()) if one.HasField("duration") else ""
