"""Engines that start at once: each is forked from a process that has the imports behind it.

An engine is a process of its own all the same, with its own pipe, signals and exit code. What a
start costs otherwise, some ten seconds of imports, would be most of what a test of kills takes.
"""

import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import TextIO

_CLIENT = Path(__file__).parent / "faults" / "engine_client.py"
_START_LIMIT_S = 100.0
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.engine_imports"])


@dataclass(frozen=True)
class Engine:
    """`output` has an event a line, as `python -m services.trainer.engine` prints them."""

    process: ForkServerProcess
    output: TextIO

    def exit_code(self) -> int:
        """Waits for the end. A signal is told as a negative number."""
        self.process.join()
        assert self.process.exitcode is not None
        return self.process.exitcode


@contextmanager
def engine(
    *arguments: Path | str,
    spare_bytes: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Engine]:
    """What `python -m services.trainer.engine` does with these arguments, for a job of one thread
    and one process; what is left of it in the end is killed. It may take `spare_bytes` more than
    it begins with; `environment` is added to its own."""
    ours, theirs = _FORKS.Pipe(duplex=False)
    told = [str(argument) for argument in arguments]
    process = _FORKS.Process(target=_run, args=(told, theirs, spare_bytes, environment or {}))
    process.start()
    theirs.close()
    with os.fdopen(os.dup(ours.fileno())) as output:
        ours.close()
        try:
            yield Engine(process, output)
        finally:
            process.kill()
            process.join()
            process.close()


@contextmanager
def forks(path: Path) -> Iterator[Sequence[str]]:
    """A program that is started as `python -m services.trainer.engine` is, for whoever wants to
    start one himself: see faults/engine_forks.py. They meet at a socket of this `path`."""
    process = _FORKS.Process(target=_serve, args=(path,))
    process.start()
    try:
        deadline_s = time.monotonic() + _START_LIMIT_S
        while not path.exists():
            assert process.is_alive(), "there is nothing to fork engines from"
            assert time.monotonic() < deadline_s, "engines are slow to be there"
            time.sleep(0.05)
        yield (sys.executable, "-I", "-S", str(_CLIENT), str(path))
    finally:
        process.kill()
        process.join()
        process.close()


def _serve(path: Path) -> None:
    from services.trainer.engine.process import die_with_parent
    from tests.faults.engine_forks import serve

    die_with_parent()
    serve(path)


def _run(
    arguments: list[str],
    output: Connection,
    spare_bytes: int | None,
    environment: Mapping[str, str],
) -> None:
    from services.trainer.engine.__main__ import main
    from services.trainer.engine.footprint import data_bytes

    if spare_bytes is not None:
        limit = data_bytes() + spare_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    os.environ.update(environment)
    os.dup2(output.fileno(), sys.__stdout__.fileno())
    sys.exit(main(arguments))
