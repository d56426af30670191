"""A run of axolotl, recorded and done again: what is told of it, and what becomes of its result."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from services.trainer.backends.errors import ToolDiverged, ToolFailed, ToolOutOfMemory
from services.trainer.engine.artifacts import listed
from services.trainer.engine.job import Job
from services.trainer.engine.methods import Lora
from tests.unit.trainer_backends.conftest import (
    RECORDED,
    RECORDED_TRAINING,
    Line,
    Record,
    recorded_lines,
)

Axolotl = Callable[..., None]
Train = Callable[..., tuple[bool, Record]]


@pytest.fixture
def job(make_job: Callable[..., Job]) -> Job:
    return make_job(RECORDED_TRAINING)


def reports(kind: str) -> list[dict[str, Any]]:
    told = [json.loads(line["report"]) for line in recorded_lines() if "report" in line]
    return [report for report in told if report["report"] == kind]


def test_the_events_are_what_the_recorded_run_reported(
    axolotl: Axolotl, train: Train, job: Job
) -> None:
    axolotl(recorded_lines())
    done, record = train(job)
    assert done
    (began,), (started,) = reports("began"), record.of("started")
    assert (started.total_steps, started.start_step, started.device) == (6, 0, "cpu")
    assert started.trainable_parameters == began["trainable_parameters"]
    assert (started.training_examples, started.validation_examples) == (36, 4)

    steps = record.of("step")
    assert [step.step for step in steps] == [1, 2, 3, 4, 5, 6]
    for name in ("loss", "learning_rate", "gradient_norm", "tokens", "epoch"):
        assert [getattr(s, name) for s in steps] == [s[name] for s in reports("step")]
    losses = [step.loss for step in steps]
    assert [step.best_loss for step in steps] == [min(losses[: i + 1]) for i in range(6)]
    assert steps[2].progress_percent == 50
    assert all(step.tokens > 0 and step.tokens_per_second > 0 for step in steps)

    evaluations = record.of("eval")
    assert [e.step for e in evaluations] == [4, 6]
    assert [e.loss for e in evaluations] == [e["loss"] for e in reports("evaluated")]
    finished = record.finished
    assert (finished.steps, finished.final_loss) == (6, losses[-1])
    assert finished.best_loss == min(losses)
    assert finished.validation_loss == evaluations[-1].loss


def test_the_log_says_who_trained_and_what_was_left_out(
    axolotl: Axolotl, train: Train, job: Job
) -> None:
    axolotl(recorded_lines())
    _, record = train(job)
    said = [line.message for line in record.of("log")]
    assert f"trained by {reports('began')[0]['software']}" in said
    assert any("an attempt that is interrupted begins anew" in message for message in said)


def test_plain_peft_computes_the_recorded_adapters_logits_from_the_artifacts(
    axolotl: Axolotl, train: Train, job: Job
) -> None:
    axolotl(recorded_lines())
    _, record = train(job)
    assert record.finished.artifacts == listed(job.artifacts_dir)
    assert [a.path for a in record.finished.artifacts] == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    ids = torch.arange(5, 30).unsqueeze(0)
    ours, theirs = (logits(job.base_model_dir, d, ids) for d in (job.artifacts_dir, output()))
    torch.testing.assert_close(ours, theirs, atol=0, rtol=0)
    assert str(job.base_model_dir) not in (job.artifacts_dir / "adapter_config.json").read_text()


def output() -> Path:
    return RECORDED / "output"


def logits(base_dir: Path, adapter: Path, ids: torch.Tensor) -> torch.Tensor:
    base = AutoModelForCausalLM.from_pretrained(base_dir)
    with torch.no_grad():
        return PeftModel.from_pretrained(base, adapter).eval()(input_ids=ids).logits


def test_lines_that_are_no_reports_are_told_and_do_no_harm(
    axolotl: Axolotl, train: Train, job: Job
) -> None:
    garbage = ["{'loss': 2.5}", '{"report": "step"}', '{"report": "unheard of"}', "\N{BELL}", "[]"]
    first, *others = recorded_lines()
    noise: list[Line] = [{"report": text} for text in garbage]
    axolotl([noise[0], first, *noise[1:], *others])
    done, record = train(job)
    assert done
    told = [line.message for line in record.of("log") if "no report" in line.message]
    assert len(told) == len(garbage)
    assert "{'loss': 2.5}" in told[0]
    assert len(record.of("step")) == 6


def test_a_crash_is_told_with_the_tools_last_words(
    axolotl: Axolotl, train: Train, job: Job, capfd: pytest.CaptureFixture[str]
) -> None:
    error = {"output": "RuntimeError: CUDA error: an illegal memory access was encountered"}
    axolotl([*up_to_step(3), error], result=None, status=1)
    with pytest.raises(ToolFailed, match=r"status 1 after step 3: .*illegal memory access"):
        train(job)
    assert error["output"] in capfd.readouterr().err
    assert not job.artifacts_dir.exists()


def test_a_full_memory_is_told_as_such(axolotl: Axolotl, train: Train, job: Job) -> None:
    error = {"output": "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"}
    axolotl([*up_to_step(2), error], result=None, status=1)
    with pytest.raises(ToolOutOfMemory, match=r"ran out of memory after step 2"):
        train(job)


def test_a_loss_that_is_no_number_ends_the_run_at_once(
    axolotl: Axolotl, train: Train, job: Job
) -> None:
    *lines, third = up_to_step(3)
    report = json.loads(third["report"]) | {"loss": math.nan}
    axolotl([*lines, {"report": json.dumps(report)}], hangs=True)
    record = Record()
    with pytest.raises(ToolDiverged, match=r"step 3 has loss nan"):
        train(job, record=record)
    assert [step.step for step in record.of("step")] == [1, 2]


def test_a_tool_that_leaves_early_has_no_result(axolotl: Axolotl, train: Train, job: Job) -> None:
    axolotl(up_to_step(4))
    with pytest.raises(ToolFailed, match="without having trained all steps, after step 4"):
        train(job)


def test_other_steps_than_asked_for_are_refused(
    axolotl: Axolotl, train: Train, make_job: Callable[..., Job]
) -> None:
    axolotl(recorded_lines(), hangs=True)
    with pytest.raises(ToolFailed, match="would train 6 steps instead of 7"):
        train(make_job(RECORDED_TRAINING | {"max_steps": 7}))


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (
            Lora(rank=8, alpha=8.0),
            r"other weights than asked for: .*\(4, 32\) instead of \(8, 32\)",
        ),
        (Lora(rank=4, alpha=4.0), r"another adapter than asked for: lora_alpha 8 instead of 4"),
        (Lora(rank=4, alpha=8.0, rslora=True), "use_rslora False instead of True"),
        (Lora(rank=4, alpha=8.0, target_modules=("q_proj",)), "instead of None.* and .* more"),
    ],
)
def test_another_adapter_than_asked_for_is_no_result(
    axolotl: Axolotl, train: Train, make_job: Callable[..., Job], method: Lora, said: str
) -> None:
    axolotl(recorded_lines())
    job = make_job(RECORDED_TRAINING, method=method)
    with pytest.raises(ToolFailed, match=said):
        train(job)
    assert not job.artifacts_dir.exists()


def test_no_adapter_and_a_damaged_one_are_no_results(
    axolotl: Axolotl, train: Train, job: Job, tmp_path: Path
) -> None:
    axolotl(recorded_lines(), result=None)
    with pytest.raises(ToolFailed, match=r"the result of axolotl cannot be read: .*adapter_model"):
        train(job)
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "adapter_model.safetensors").write_bytes(b"\x80\x04pickled")
    axolotl(recorded_lines(), result=damaged)
    with pytest.raises(ToolFailed, match="cannot be read"):
        train(job)


def test_what_else_was_trained_is_refused(
    axolotl: Axolotl, train: Train, job: Job, tmp_path: Path
) -> None:
    more = tmp_path / "more"
    more.mkdir()
    tensors = load_file(output() / "adapter_model.safetensors")
    name = "base_model.model.model.embed_tokens.weight"
    save_file(tensors | {name: torch.zeros(320, 32)}, more / "adapter_model.safetensors")
    axolotl(recorded_lines(), result=more)
    with pytest.raises(ToolFailed, match=rf"{name} \(320, 32\) instead of None"):
        train(job)


def up_to_step(step: int) -> list[Line]:
    """The recorded lines up to the report of a step."""
    lines = recorded_lines()
    for number, line in enumerate(lines):
        report = json.loads(line.get("report", "{}"))
        if (report.get("report"), report.get("step")) == ("step", step):
            return lines[: number + 1]
    raise AssertionError(step)
