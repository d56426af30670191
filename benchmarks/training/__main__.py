"""`make bench-training`; `ARGS="--size 110m --rounds 5"` passes options on."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.training.observation import ROOT, DatasetSize, MeasurementFailed, Window, observe
from benchmarks.training.ours import check_engine_reads_the_same
from benchmarks.training.results import (
    Measurement,
    append_result,
    read_results,
    smoothed,
    speed,
)
from benchmarks.training.sizes import SIZES, useful_flops
from benchmarks.training.summary import summary
from benchmarks.training.variants import (
    CYCLE_STEPS,
    VARIANTS,
    Setting,
    Variant,
    command,
    environment,
    gemm_command,
    in_turn,
    job_file,
)
from benchmarks.training.workload import write_workload

DIRECTORY = ROOT / "build" / "bench-training"


def main() -> int:
    options = _options()
    sizes = list(SIZES.values()) if options.size == "both" else [SIZES[options.size]]
    variants = [VARIANTS[name] for name in options.variants]
    workload = write_workload(DIRECTORY / "workload", sizes)
    options.results.unlink(missing_ok=True)
    failures: list[str] = []
    for threads in options.threads:
        for size in sizes:
            setting = Setting(workload, size, threads, options.peers_python, DIRECTORY)
            for variant in variants:
                if variant.is_ours:
                    check_engine_reads_the_same(workload, job_file(variant, setting, seed=0))
            failures += _take_turns(setting, variants, options)
    if options.results.exists():
        print(summary(read_results(options.results)))
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training",
        description="Our engine beside the usual trainers.",
        epilog="\n".join(f"  {v.name:12}  {v.description}" for v in VARIANTS.values()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--size", choices=[*SIZES, "both"], default="both")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--seconds", type=float, default=60, help="at least, of each run after its warm-up"
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[2])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--results", type=Path, default=DIRECTORY / "results.jsonl")
    parser.add_argument(
        "--peers-python", type=Path, default=ROOT / ".venv-bench" / "bin" / "python"
    )
    options = parser.parse_args()
    others = [name for name in options.variants if not VARIANTS[name].is_ours]
    if others and not options.peers_python.exists():
        parser.error(f"no {options.peers_python}, which {others[0]} needs: `make bench-training`")
    return options


def _take_turns(
    setting: Setting, variants: list[Variant], options: argparse.Namespace
) -> list[str]:
    """Measures all sides in turns, each round with another seed; what fails is returned and the
    others go on."""
    failures: list[str] = []
    for number in range(options.rounds):
        peak_gflops = _gemm_peak()
        for variant in in_turn(variants, number):
            try:
                measurement = _measure(setting, variant, number, options.seconds, peak_gflops)
            except MeasurementFailed as failure:
                failures.append(f"{variant.name}, {setting.size.name}, round {number}: {failure}")
                continue
            append_result(options.results, measurement)
            print(
                f"{setting.size.name} {setting.threads} thread(s) round {number} {variant.name}: "
                f"{measurement.tokens_per_s:,.0f} tokens/s, "
                f"{measurement.tokens_per_cpu_s:,.0f} tokens/CPU-s",
                flush=True,
            )
    return failures


def _gemm_peak() -> float:
    printed = subprocess.run(
        gemm_command(), env=environment(1), cwd=ROOT, check=True, capture_output=True
    ).stdout
    return float(printed)


def _measure(
    setting: Setting, variant: Variant, number: int, seconds: float, peak_gflops: float
) -> Measurement:
    workload = setting.workload
    load = os.getloadavg()[0]
    observation = observe(
        command(variant, setting, seed=number),
        environment(setting.threads),
        Window(seconds, CYCLE_STEPS, limit_s=900 + 10 * seconds),
        DatasetSize(workload.tokens, workload.labels),
        DIRECTORY / f"{variant.name}.log",
    )
    seen = speed(observation)
    return Measurement(
        variant=variant.name,
        size=setting.size.name,
        threads=setting.threads,
        round=number,
        steps=seen.steps,
        tokens=seen.tokens,
        wall_s=seen.wall_s,
        cpu_s=observation.cpu_s,
        median_step_tokens_per_s=seen.median_step_tokens_per_s,
        peak_rss_bytes=observation.peak_rss_bytes,
        losses=smoothed([step.loss for step in observation.steps]),
        flops_per_token=useful_flops(
            setting.size, workload.labels / workload.tokens, workload.mean_context
        ),
        peak_gflops=peak_gflops,
        load=load,
    )


if __name__ == "__main__":
    sys.exit(main())
