"""From CreateTuningJob to the first step, in seconds: `python -m benchmarks.first_step`.

A whole platform on this machine, one node with nothing else to do, LoRA on tiny-base: with an
engine that waits for a job, and without one. The client's clock at the call, the engine's at the
step.
"""

import os
import statistics
import time

from anneal import Client
from anneal.trainer.v1.tuning_job_pb2 import TrainingParameters
from benchmarks.rounds import percentile
from benchmarks.servers import platform
from benchmarks.watch import EXAMPLES

ROUNDS = 9
RECOVERY_S = 40.0
"""Between two jobs, for the next engine to get ready."""


def main() -> None:
    print("\n### From Create to the first step\n")
    print("| | median s | min to max |")
    print("| --- | ---: | ---: |")
    for name, warm_engines in (("an engine waits", 1), ("none waits", 0)):
        waits_s = _waits_s(warm_engines)
        print(
            f"| {name} | {statistics.median(waits_s):.2f} | "
            f"{min(waits_s):.2f} to {percentile(waits_s, 1.0):.2f} |"
        )


def _waits_s(warm_engines: int) -> list[float]:
    environment = {**os.environ, "ANNEAL_WARM_ENGINES": str(warm_engines)}
    with platform(environment) as running, Client(running.addresses) as client:
        version = client.datasets.upload(EXAMPLES, "bench").name
        waits_s: list[float] = []
        for _ in range(ROUNDS + 1):
            time.sleep(RECOVERY_S if warm_engines else 1.0)
            waits_s.append(_wait_s(client, version))
    return waits_s[1:]  # the first one fetches the base model


def _wait_s(client: Client, version: str) -> float:
    training = TrainingParameters(max_steps=2, batch_size=8)
    called = time.time()
    job = client.jobs.create(version, "tiny-base", training=training)
    happened = called
    for event in client.jobs.watch(job.name):
        if event.HasField("step") and event.step.step == 1:
            happened = event.time.ToNanoseconds() / 1e9
    return happened - called


if __name__ == "__main__":
    main()
