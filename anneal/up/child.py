"""One child process: its own process group, its output line by line, its orderly end."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from threading import Thread

_LAST_LINES_S = 1.0


class Child:
    """A running program. `on_line` is called from a thread for each line it writes.

    Its own process group keeps a terminal's Ctrl-C away from it. Must be made by a thread that
    outlives it (see `leash`).
    """

    def __init__(
        self, argv: Sequence[str], environment: Mapping[str, str], on_line: Callable[[str], None]
    ) -> None:
        leash = (sys.executable, "-P", "-m", "anneal.up.leash", str(os.getpid()))
        self._process = subprocess.Popen(
            (*leash, *argv),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            process_group=0,
        )
        if self._process.stdout is None:
            raise OSError("a child without output")
        self._output = self._process.stdout
        self._on_line = on_line
        self._reader = Thread(target=self._read, name=f"output-{self.pid}", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def exit_code(self) -> int | None:
        """Returns None while it runs; below 0: the signal that ended it."""
        return self._process.poll()

    def ask_to_stop(self) -> None:
        """Sends SIGTERM."""
        self._process.terminate()

    def is_running(self) -> bool:
        return self.exit_code() is None

    def end(self) -> bool:
        """Kills what is left of it and of its process group; returns whether it had ended."""
        had_ended = not self.is_running()
        with suppress(ProcessLookupError):  # nobody of the group is left
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join(_LAST_LINES_S)
        return had_ended

    def _read(self) -> None:
        with self._output:
            for line in self._output:
                self._on_line(line.rstrip("\n"))
