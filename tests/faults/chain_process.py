"""The process of tests.faults.chain, in the hands of a test."""

import subprocess
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

import psutil

from tests.faults.chain import Run

Surroundings = Callable[[Sequence[str]], Sequence[str]]
"""What makes a program one that runs in them."""
PROGRAM: Sequence[str] = (sys.executable, "-m", "tests.faults.chain")


class ChainProcess:
    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    def run(self, run: Run) -> int:
        """Its exit code, when it has ended."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(run.to_json() + "\n")
        stdin.flush()
        while not (line := stdout.readline().strip()).lstrip("-").isdigit():
            assert line or self._process.poll() is None, "the chain is gone"
        return int(line)


@contextmanager
def chain_process(
    surrounded: Surroundings = tuple,
) -> Generator[ChainProcess]:
    """As long as the block."""
    argv = surrounded(PROGRAM)
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield ChainProcess(process)
        finally:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
