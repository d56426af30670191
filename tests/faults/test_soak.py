"""R17: hours of work leave nothing behind: no memory, no descriptor, no thread."""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import linear_regression

import psutil
import pytest

from tests.faults.site import FORKS, Site
from tests.faults.test_random_kills import Stream
from tests.faults.world import World

pytestmark = [pytest.mark.fault("R17"), pytest.mark.slow, pytest.mark.timeout(30_000)]

SHORT_S, LONG_S = 5.0, 3600.0
SAMPLES = 120
WARM_SHARE = 0.25
"""What is grown in the first quarter are caches and pools."""
MORE_FDS, MORE_THREADS = 16, 8
"""Of what connections and pools come and go with."""

Sample = tuple[float, float, int, int]
"""Seconds, MB of resident memory, file descriptors, threads."""


def test_work_leaves_nothing_behind(
    site: Site,
    desk: World,
    long: bool,
    lasting_s: Callable[[float, float], float],
    tell: Callable[..., None],
) -> None:
    watched = [name for name in site.names if name not in ("nats", FORKS)]
    samples: dict[str, list[Sample]] = defaultdict(list)
    stream = Stream(desk, f"soak-{time.time_ns()}", 2)
    duration_s = lasting_s(SHORT_S, LONG_S)
    began_s = time.monotonic()
    while (now_s := time.monotonic() - began_s) < duration_s:
        for name in watched:
            samples[name].append(sample(site.pid(name), now_s))
        time.sleep(min(duration_s / SAMPLES, 10.0))
    stream.end(site.tend)
    for name, taken in samples.items():
        warm = taken[int(len(taken) * WARM_SHARE) :]
        figures = grown(warm)
        if not long:
            del figures["rss_mb_per_hour"]  # of seconds it says nothing
        tell("R17", program=name, minutes=duration_s / 60, jobs=len(stream.seen), **figures)
        if long:
            assert figures["more_fds"] <= MORE_FDS
            assert figures["more_threads"] <= MORE_THREADS


def sample(pid: int, now_s: float) -> Sample:
    process = psutil.Process(pid)
    with process.oneshot():
        memory_mb = process.memory_info().rss / 1e6
        return now_s, memory_mb, process.num_fds(), process.num_threads()


def grown(warm: Sequence[Sample]) -> dict[str, float]:
    """The slope of the memory, and how many more of the rest there were in the second half than
    in the first."""
    half = len(warm) // 2
    seconds, memory_mb, fds, threads = zip(*warm, strict=True)
    return {
        "rss_mb": memory_mb[-1],
        "rss_mb_per_hour": linear_regression(seconds, memory_mb).slope * 3600,
        "fds": fds[-1],
        "more_fds": max(fds[half:]) - max(fds[: half + 1]),
        "threads": threads[-1],
        "more_threads": max(threads[half:]) - max(threads[: half + 1]),
    }
