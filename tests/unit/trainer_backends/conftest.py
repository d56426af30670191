"""Jobs for tools, and a tool that does again what a recorded run did."""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from services.trainer.backends.run import Installed, run_job
from services.trainer.backends.tools import Tool
from services.trainer.engine.batches import padded
from services.trainer.engine.evaluation import Evaluation, evaluate
from services.trainer.engine.events import Event, Finished
from services.trainer.engine.job import Job
from services.trainer.engine.model import load_tunable_model
from services.trainer.engine.preparation import prepare
from services.trainer.engine.process import StopRequest
from services.trainer.engine.team import Team
from tests.unit.engine.conftest import base_model, make_job, write_dataset

__all__ = ["base_model", "make_job", "write_dataset"]

HERE = Path(__file__).parent
RECORDED = HERE / "recordings" / "axolotl"
RECORDED_TRAINING = {"max_steps": 6, "evaluate_every": 4, "weight_decay": 0.0}
"""What the recorded run was told, besides the defaults of `make_job`: see recordings/record.py."""

Line = dict[str, Any]


@dataclass
class Record:
    """Keeps events. `watching` is called with each."""

    events: list[Event] = field(default_factory=list)
    watching: Callable[[Event], None] = lambda _: None

    def emit(self, event: Event) -> None:
        self.events.append(event)
        self.watching(event)

    def of(self, kind: str) -> list[Any]:
        return [event for event in self.events if event.type == kind]

    @property
    def finished(self) -> Finished:
        (event,) = self.of("finished")
        return event


def recorded_lines() -> list[Line]:
    """What axolotl said (`output`) and reported (`report`), in order."""
    return [json.loads(line) for line in (RECORDED / "transcript.jsonl").read_text().splitlines()]


def held_out(result: Job) -> Evaluation:
    """As the engine evaluates the result that a job starts from."""
    device = torch.device("cpu")
    model = load_tunable_model(result, torch.float32, device)
    model.network.eval()
    batches = [padded(prepare(result).examples.validation, device)]
    return evaluate(model, batches, Team())


@pytest.fixture
def axolotl(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Puts an axolotl on the path that says and reports `lines`, leaves `result` behind and ends
    with `status`; with `hangs` it waits before that until it is killed."""
    monkeypatch.setenv("PYTHONPATH", str(HERE / "fakes"))

    def prepare(
        lines: Sequence[Line],
        result: Path | None = RECORDED / "output",
        status: int = 0,
        hangs: bool = False,
    ) -> None:
        play = {
            "lines": list(lines),
            "result": None if result is None else str(result),
            "status": status,
            "hangs": hangs,
        }
        (tmp_path / "play.json").write_text(json.dumps(play))
        monkeypatch.setenv("FAKE_AXOLOTL", str(tmp_path / "play.json"))

    return prepare


@pytest.fixture
def train() -> Callable[..., tuple[bool, Record]]:
    """Runs a job by a tool; tells whether it was trained to its end, and the events."""

    def run(job: Job, tool: Tool = Tool.AXOLOTL, record: Record | None = None, stop: Any = None):
        record = record or Record()
        installed = Installed(tool, sys.executable)
        done = run_job(installed, job, record, stop or StopRequest(), time.monotonic)
        return done, record

    return run
