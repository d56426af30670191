"""The driver and the reports on transformers' own Trainer, with plain PEFT in unsloth's place."""

import importlib
import json
import os
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file

from services.trainer.backends.inside import INSIDE
from services.trainer.backends.tools import Tool
from services.trainer.engine.job import Job
from services.trainer.engine.methods import Full, Lora
from tests.unit.trainer_backends.conftest import HERE, Record, held_out

MakeJob = Callable[..., Job]
Train = Callable[..., tuple[bool, Record]]

LORA = Lora(rank=4, alpha=8.0, dropout=0.0)
TRAINING = {"max_steps": 8, "evaluate_every": 5, "micro_batch_tokens": 150}


@pytest.fixture(autouse=True)
def _unsloth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HERE / "fakes"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_a_run_on_transformers_trainer_is_told_and_imported(
    make_job: MakeJob, train: Train
) -> None:
    job = make_job(TRAINING, method=LORA)
    done, record = train(job, Tool.UNSLOTH)
    assert done
    (started,) = record.of("started")
    shapes = load_file(job.artifacts_dir / "adapter_model.safetensors").values()
    assert started.trainable_parameters == sum(tensor.numel() for tensor in shapes)
    assert started.total_steps == 8

    steps = record.of("step")
    assert [step.step for step in steps] == list(range(1, 9))
    assert steps[-1].loss < 0.9 * steps[0].loss
    epoch = [step.tokens for step in steps[:6]]  # six steps of six examples
    assert sum(epoch) == started.tokens_per_epoch
    assert [step.learning_rate for step in steps[:4]] == pytest.approx(
        [0, 0.005, 0.01, 0.0093], 0.01
    )
    assert all(step.gradient_norm > 0 for step in steps)
    assert steps[5].epoch == pytest.approx(1)

    assert [e.step for e in record.of("eval")] == [5, 8]
    last = record.of("eval")[-1]
    ours = held_out(make_job(TRAINING, method=LORA, start_from=job.artifacts_dir))
    assert last.loss == pytest.approx(ours.loss, rel=1e-4)
    assert last.token_accuracy == pytest.approx(ours.token_accuracy)
    assert last.tokens == ours.tokens
    assert record.finished.validation_loss == last.loss


def test_a_whole_model_is_imported_with_its_tokenizer(make_job: MakeJob, train: Train) -> None:
    training = {"max_steps": 2, "learning_rate": 1e-3}
    job = make_job(training, method=Full())
    done, record = train(job, Tool.UNSLOTH)
    assert done
    names = {artifact.path for artifact in record.finished.artifacts}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= names
    config = json.loads((job.artifacts_dir / "config.json").read_text())
    assert config["dtype"] == "float32"
    (began,) = record.of("started")
    assert began.trainable_parameters == began.total_parameters

    ours = held_out(make_job(training, method=Full(), start_from=job.artifacts_dir))
    assert record.of("eval")[-1].loss == pytest.approx(ours.loss, rel=1e-4)


def test_the_plugin_has_axolotls_trainer_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Axolotl imports a plugin by its name and asks it for callbacks, with the trainer in hand."""
    monkeypatch.syspath_prepend(HERE / "fakes")
    monkeypatch.syspath_prepend(INSIDE)
    reports, writing = os.pipe()
    told = {"descriptor": writing, "tool": "axolotl", "held_out_file": None, "evaluate_every": 0}
    monkeypatch.setenv("ANNEAL_REPORTS", json.dumps(told))
    trainer = SimpleNamespace(data_collator=len)
    plugin = importlib.import_module("anneal_axolotl_plugin").Reporting()
    (callback,) = plugin.add_callbacks_post_trainer(None, trainer)
    assert trainer.data_collator([{"input_ids": [1, 2, 3]}]) == 1
    state = SimpleNamespace(global_step=4, max_steps=4, epoch=1)
    schedule = SimpleNamespace(get_last_lr=lambda: [0.5])
    callback.on_step_begin(None, state, None, lr_scheduler=schedule)
    callback.on_step_end(None, state, None)
    callback.on_log(None, state, None, logs={"loss": 2.0})
    callback.on_log(None, state, None, logs={"train_runtime": 2.0})
    callback.on_train_end(None, state, None)
    os.close(writing)
    with os.fdopen(reports) as lines:
        step, end = map(json.loads, lines.read().splitlines())
    assert end == {"report": "ended", "step": 4}
    assert (step["step"], step["tokens"], step["learning_rate"]) == (4, 3, 0.5)
    assert (step["loss"], step["gradient_norm"]) == (2.0, 0.0)
