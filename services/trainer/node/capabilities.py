"""What a node says of itself besides its device, and how it finds that out."""

import asyncio
import json
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import structlog

from services.trainer.node.device import driver_version

SELF_TEST = (sys.executable, "-P", "-m", "services.trainer.engine.self_test")
"""Called with a number of threads."""

_TRIES = 3
_log = structlog.get_logger()


@dataclass(frozen=True)
class Capabilities:
    """Empty words: not known. A method that is neither tested nor failed has not been tried."""

    device_count: int = 1
    engine_count: int = 1
    driver_version: str = ""
    torch_version: str = ""
    tested_methods: tuple[str, ...] = ()
    failed_methods: tuple[str, ...] = ()
    code_version: str = ""


class SelfTest:
    """Tries the methods in a child of the node, once, for `limit_s` at most; 0: not at all.

    It gives way to jobs. When it was interrupted it begins anew, three times in all.
    """

    def __init__(self, threads: int, limit_s: float, program: Sequence[str] = SELF_TEST) -> None:
        self._program = (*program, str(threads))
        self._limit_s = limit_s
        self._tries_left = _TRIES if limit_s > 0 else 0
        self._trial: asyncio.Task[None] | None = None
        self._interrupted: set[asyncio.Task[None]] = set()
        self._errors: dict[str, str | None] = {}

    @property
    def tested(self) -> tuple[str, ...]:
        """The methods that work."""
        return tuple(method for method, error in self._errors.items() if error == "")

    @property
    def failed(self) -> tuple[str, ...]:
        return tuple(method for method, error in self._errors.items() if error)

    def begin(self) -> None:
        """Unless it has ended, or goes on."""
        if self._trial is None and self._tries_left:
            self._tries_left -= 1
            self._trial = asyncio.create_task(self._run())

    def interrupt(self) -> None:
        """A job is to have the host."""
        if self._trial is not None and not self._trial.done():
            self._trial.cancel()
            self._interrupted.add(self._trial)
            self._trial.add_done_callback(self._interrupted.discard)
            self._trial = None

    async def ended(self) -> None:
        """Returns when nothing is tried any more, and no child is left."""
        trials = {self._trial, *self._interrupted} - {None}
        if trials:
            await asyncio.wait([trial for trial in trials if trial is not None])

    async def _run(self) -> None:
        try:
            child = await asyncio.create_subprocess_exec(
                *self._program, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL
            )
        except OSError as error:
            _log.warning("node.not_self_tested", error=str(error))
            return
        try:
            async with asyncio.timeout(self._limit_s):
                await self._listen(child)
        except TimeoutError:
            _log.warning("node.self_test_too_slow", limit_s=self._limit_s)
        except (ValueError, LookupError, TypeError) as error:
            _log.warning("node.self_test_garbled", error=str(error))
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        failed = {method: self._errors[method] for method in self.failed}
        _log.info("node.self_tested", tested=self.tested, failed=failed)

    async def _listen(self, child: Process) -> None:
        """To its end. What it died of is the method that it was trying."""
        stdout = child.stdout
        while stdout is not None and (line := await stdout.readline()).endswith(b"\n"):
            told: Any = json.loads(line)
            self._errors[told["method"]] = told["error"]
        status = await child.wait()
        for method, error in self._errors.items():
            if status and error is None:
                self._errors[method] = f"the child left with status {status}"


class About:
    """What a node is known by. `labels` are what jobs may require."""

    def __init__(
        self,
        labels: Mapping[str, str] | None = None,
        device_count: int = 1,
        engine_count: int = 1,
        self_test: SelfTest | None = None,
    ) -> None:
        self.labels = labels or {}
        self.self_test = self_test or SelfTest(1, limit_s=0)
        self._known = Capabilities(
            device_count=device_count,
            engine_count=engine_count,
            torch_version=_version("torch"),
            code_version=_version("anneal"),
        )
        self._driver_is_known = False

    async def capabilities(self) -> Capabilities:
        """As far as they are known by now."""
        if not self._driver_is_known:
            self._known = replace(self._known, driver_version=await driver_version())
            self._driver_is_known = True
        test = self.self_test
        return replace(self._known, tested_methods=test.tested, failed_methods=test.failed)


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""
