"""What `anneal up` shows: what serves where, what dies, and what the programs write."""

from collections.abc import Mapping
from threading import Lock

from rich.console import Console
from rich.text import Text

from anneal.up.failures import PlatformError
from anneal.up.logbook import readable
from anneal.up.platform import Platform
from anneal.up.supervisor import cause

COLOURS: Mapping[str, str] = {
    "nats": "bright_black",
    "registry": "magenta",
    "dataset": "cyan",
    "trainer": "yellow",
    "inference": "green",
    "abtest": "blue",
    "node": "red",
}
NAME_WIDTH = 10


class Terminal:
    """The audience of `anneal up`. `quiet` leaves out what the programs write."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._console = Console(highlight=False, soft_wrap=True)
        self._errors = Console(stderr=True, highlight=False, soft_wrap=True)
        self._one_at_a_time = Lock()
        self.addresses: Mapping[str, str] = {}

    def line(self, name: str, text: str) -> None:
        if not self._quiet:
            self._say(name, readable(text), "dim" if name == "nats" else "")

    def ready(self, name: str) -> None:
        at = self.addresses.get(name)
        self._say(name, f"serving on {at}" if at else "running", "bold")

    def died(self, name: str, exit_code: int, pause_s: float) -> None:
        self._say(name, f"died ({cause(exit_code)}); starting again in {pause_s:g} s", "bold red")

    def killed(self, name: str) -> None:
        self._say(name, "did not stop in time: killed", "bold red")

    def complete(self, platform: Platform) -> None:
        """All is there."""
        self._say("anneal", f"ready; state in {platform.data_dir.path}; Ctrl-C stops it", "bold")

    def stopping(self, why: str) -> None:
        # From a signal handler, which must not wait for a lock that its own thread may hold.
        self._errors.print(f"{why}: stopping; once more kills what still runs")

    def stopped(self) -> None:
        self._say("anneal", "stopped", "bold")

    def failed(self, error: PlatformError) -> None:
        for line in error.last_lines:
            self._errors.print(Text(f"  {readable(line)}"))
        self._errors.print(Text(f"anneal up: {error}", "bold red"))

    def _say(self, name: str, text: str, style: str) -> None:
        line = Text.assemble((f"{name:<{NAME_WIDTH}}", COLOURS.get(name, "bold")), (text, style))
        with self._one_at_a_time:
            self._console.print(line)
