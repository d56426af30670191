"""Axolotl itself, where AXOLOTL_PYTHON names an interpreter that has it; skipped elsewhere.

With AXOLOTL_RECORD=1 the run by LoRA is kept in recordings/axolotl, for the tests that do it again.
"""

import json
import os
import shutil
import time
from collections.abc import Callable
from typing import Any

import pytest

from services.trainer.backends.child import _LastWords
from services.trainer.backends.progress import Progress
from services.trainer.backends.run import Installed, run_job
from services.trainer.backends.tools import Tool
from services.trainer.engine.job import Job
from services.trainer.engine.methods import Full, Lora, Qlora
from services.trainer.engine.process import StopRequest, configure_libraries
from tests.unit.trainer_backends.conftest import RECORDED, RECORDED_TRAINING, Record, held_out

PYTHON = os.environ.get("AXOLOTL_PYTHON", "")

pytestmark = [
    pytest.mark.skipif(
        not PYTHON,
        reason="axolotl is no dependency: AXOLOTL_PYTHON names an interpreter that has it; "
        "test_recorded_run.py stands for it in every run",
    ),
    pytest.mark.slow,
    pytest.mark.timeout(600),
]

ADAPTER = "adapter_model.safetensors"
Line = dict[str, str]


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[Line]:
    """What axolotl says (`output`) and reports (`report`), as it comes."""
    lines: list[Line] = []

    def noting(kind: str, take: Callable[[Any, bytes], None]) -> Callable[[Any, bytes], None]:
        def noted(self: Any, line: bytes) -> None:
            lines.append({kind: line.decode(errors="replace")})
            take(self, line)

        return noted

    monkeypatch.setattr(_LastWords, "take", noting("output", _LastWords.take))
    monkeypatch.setattr(Progress, "take", noting("report", Progress.take))
    return lines


@pytest.mark.parametrize(
    "method",
    [
        Lora(rank=4, alpha=8.0, dropout=0.1),
        Lora(rank=4, alpha=8.0, dropout=0.0, rslora=True, dora=True),
        Full(),
        Qlora(rank=4, alpha=8.0),
        Qlora(rank=4, alpha=8.0, bits=8),
    ],
    ids=["lora", "dora", "full", "qlora", "qlora-8"],
)
def test_axolotl_trains_what_the_job_asks_for(
    make_job: Callable[..., Job], method: Any, heard: list[Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    configure_libraries(threads=1)
    job, record = make_job(RECORDED_TRAINING, method=method), Record()
    installed = Installed(Tool.AXOLOTL, PYTHON)
    assert run_job(installed, job, record, StopRequest(), time.monotonic)
    steps = record.of("step")
    assert [step.step for step in steps] == [1, 2, 3, 4, 5, 6]
    assert steps[-1].loss < steps[0].loss
    assert sum(step.tokens for step in steps) == record.of("started")[0].tokens_per_epoch
    told = record.of("eval")[-1]
    assert told.step == 6
    if not isinstance(method, Qlora):  # whose base is kept in a few bits
        result = make_job(RECORDED_TRAINING, method=method, start_from=job.artifacts_dir)
        assert told.loss == pytest.approx(held_out(result).loss, rel=1e-3)
    if method.kind == "lora" and not method.dora and os.environ.get("AXOLOTL_RECORD"):
        keep(job, heard)


def keep(job: Job, heard: list[Line]) -> None:
    """Of what it said only its log, without the lines that name a place on this host."""
    shutil.rmtree(RECORDED, ignore_errors=True)
    (RECORDED / "output").mkdir(parents=True)
    text = "".join(json.dumps(line) + "\n" for line in heard if "report" in line or _is_log(line))
    (RECORDED / "transcript.jsonl").write_text(text)
    output = job.work_dir / "tool" / "output"
    shutil.copyfile(output / ADAPTER, RECORDED / "output" / ADAPTER)
    config = json.loads((output / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "/models/base"
    (RECORDED / "output" / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")


def _is_log(line: Line) -> bool:
    return line["output"].startswith("[") and "/" not in line["output"]
