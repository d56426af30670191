"""The trainer node, its engines forked from a process that has their imports behind it.

`ANNEAL_TEST_CLOCK_S` is by how much the clock of its host is wrong: of the node and its engines.
Without `ANNEAL_TEST_ENGINE_FORKS` it starts engines as ever.
"""

import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from services.common import process
from services.common.clock import SystemClock
from services.trainer.node import __main__ as node
from services.trainer.node import backends

FORKS = "ANNEAL_TEST_ENGINE_FORKS"
CLOCK = "ANNEAL_TEST_CLOCK_S"
CLIENT = Path(__file__).parent / "engine_client.py"


def shift_clock(seconds: float) -> None:
    def now(_: SystemClock) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=seconds)

    SystemClock.now = now


if __name__ == "__main__":
    if CLOCK in os.environ:
        shift_clock(float(os.environ[CLOCK]))
    if forks := os.environ.get(FORKS):
        backends.ENGINE = (sys.executable, "-I", "-S", str(CLIENT), forks)
    process.main(node.run)
