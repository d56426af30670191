"""From an engine's step to a watcher's receipt, in milliseconds: `python -m benchmarks.watch`.

A real job runs on a real node; every step event carries the engine's clock, and the watcher, on the
same machine, looks at its own when the event arrives.
"""

import time
from pathlib import Path

from anneal import Client
from anneal.trainer.v1.tuning_job_pb2 import TrainingParameters
from benchmarks.rounds import percentile
from benchmarks.servers import platform

EXAMPLES = Path(__file__).resolve().parent.parent / "examples" / "support.jsonl"
STEPS = 400


def main() -> None:
    delays_ms: list[float] = []
    with platform() as running, Client(running.addresses) as client:
        version = client.datasets.upload(EXAMPLES, "bench")
        training = TrainingParameters(max_steps=STEPS, batch_size=8, checkpoint_every=100)
        job = client.jobs.create(version.name, "tiny-base", training=training)
        for event in client.jobs.watch(job.name):
            if event.HasField("step"):
                happened = event.time.ToNanoseconds() / 1e9
                delays_ms.append(1000 * (time.time() - happened))
    print(f"\n### Engine step to watcher, {len(delays_ms)} steps\n")
    print("| p50 | p90 | p99 | max |")
    print("| ---: | ---: | ---: | ---: |")
    shares = [percentile(delays_ms, share) for share in (0.5, 0.9, 0.99)]
    print("| " + " | ".join(f"{value:.1f} ms" for value in (*shares, max(delays_ms))) + " |")


if __name__ == "__main__":
    main()
