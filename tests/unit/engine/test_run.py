"""Whole runs, in this process: what they teach, what they leave, and what must not matter."""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import peft
import pytest
import safetensors.torch
import torch
from transformers import AutoModelForCausalLM

from services.chat.conversation import Conversation, Message, Role
from services.chat.encoder import ChatEncoder
from services.trainer.engine.errors import InvalidData, InvalidJob, TrainingDiverged
from services.trainer.engine.events import (
    CheckpointSaved,
    Event,
    Finished,
    LogLine,
    Started,
    StepDone,
)
from services.trainer.engine.examples import held_out_indices
from services.trainer.engine.job import Job
from services.trainer.engine.loop import Ending
from services.trainer.engine.methods import Lora
from services.trainer.engine.process import StopRequest
from services.trainer.engine.run import run_job
from services.trainer.engine.team import Team

MakeJob = Callable[..., Job]
RunHere = Callable[[Job], list[Event]]


def adapter(job: Job) -> bytes:
    return (job.artifacts_dir / "adapter_model.safetensors").read_bytes()


def test_events_come_in_order_and_count_right(make_job: MakeJob, run_here: RunHere) -> None:
    events = run_here(make_job({"max_steps": 6}))
    assert " ".join(event.type for event in events) == (
        "started step step step checkpoint step step eval checkpoint step eval checkpoint finished"
    )
    started, steps = events[0], [event for event in events if isinstance(event, StepDone)]
    assert isinstance(started, Started)
    assert (started.training_examples, started.validation_examples) == (36, 4)
    assert sum(step.tokens for step in steps) == started.tokens_per_epoch
    assert [step.step for step in steps] == [1, 2, 3, 4, 5, 6]
    assert steps[-1].epoch == 1.0
    assert steps[-1].progress_percent == 100.0
    assert steps[-1].eta_seconds == 0.0
    assert [step.best_loss for step in steps] == [
        min(step.loss for step in steps[: i + 1]) for i in range(6)
    ]


def test_the_loss_falls_on_a_task_that_can_be_learnt(make_job: MakeJob, run_here: RunHere) -> None:
    events = run_here(make_job({"max_steps": 150, "evaluate_every": 0, "checkpoint_every": 0}))
    steps = [event for event in events if isinstance(event, StepDone)]
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert steps[0].loss > 5.0
    assert finished.final_loss is not None
    assert finished.final_loss < 1.0
    assert finished.validation_loss is not None
    assert finished.validation_loss < 2.0


def test_peft_loads_the_result_and_it_is_what_was_trained(
    make_job: MakeJob, run_here: RunHere, base_model: Path
) -> None:
    job = make_job({"max_steps": 150})
    finished = run_here(job)[-1]
    assert isinstance(finished, Finished)
    written = {path.name: path.stat().st_size for path in job.artifacts_dir.iterdir()}
    assert {artifact.path: artifact.size_bytes for artifact in finished.artifacts} == written

    encoder = ChatEncoder.load(base_model)
    prompt = encoder.prompt(asked("Last of black red green?"))
    base = AutoModelForCausalLM.from_pretrained(base_model)
    tuned = peft.PeftModel.from_pretrained(base, job.artifacts_dir)
    answer = tuned.generate(
        input_ids=torch.tensor([prompt]),
        attention_mask=torch.ones((1, len(prompt)), dtype=torch.long),
        max_new_tokens=12,
        do_sample=False,
        pad_token_id=0,
    )
    text = encoder.decode(answer[0, len(prompt) :].tolist())
    assert text.startswith("It is ")


def test_the_artifacts_name_no_path_and_keep_their_order(
    make_job: MakeJob, run_here: RunHere, tmp_path: Path
) -> None:
    job = make_job({"max_steps": 1})
    run_here(job)
    text = (job.artifacts_dir / "adapter_config.json").read_text()
    config = json.loads(text)
    assert str(tmp_path.parent) not in text
    assert config["base_model_name_or_path"] == ""
    assert config["target_modules"] == sorted(config["target_modules"])
    assert list(config) == sorted(config)


def test_the_same_job_gives_the_same_bytes_and_another_seed_does_not(
    make_job: MakeJob, run_here: RunHere, tmp_path: Path
) -> None:
    jobs = [make_job(work_dir=tmp_path / str(i), seed=seed) for i, seed in enumerate((7, 7, 8))]
    for job in jobs:
        run_here(job)
    assert adapter(jobs[0]) == adapter(jobs[1])
    assert adapter(jobs[0]) != adapter(jobs[2])


def test_evaluation_and_checkpoints_do_not_disturb_the_training(
    make_job: MakeJob, run_here: RunHere, tmp_path: Path
) -> None:
    quiet = make_job({"evaluate_every": 0, "checkpoint_every": 0}, work_dir=tmp_path / "quiet")
    busy = make_job({"evaluate_every": 1, "checkpoint_every": 1}, work_dir=tmp_path / "busy")
    run_here(quiet)
    run_here(busy)
    assert adapter(quiet) == adapter(busy)


def test_dropout_takes_part(make_job: MakeJob, run_here: RunHere, tmp_path: Path) -> None:
    dry = make_job(
        work_dir=tmp_path / "dry",
        method=Lora(rank=4, alpha=8.0, dropout=0.0, target_modules=()),
    )
    wet = make_job(work_dir=tmp_path / "wet")
    run_here(dry)
    run_here(wet)
    assert adapter(dry) != adapter(wet)


@pytest.mark.parametrize("step", [3, 6, 9, 12])
def test_resuming_from_any_checkpoint_gives_the_same_bytes(
    step: int, make_job: MakeJob, run_here: RunHere, tmp_path: Path
) -> None:
    whole = make_job(work_dir=tmp_path / "whole")
    undisturbed = run_here(whole)
    resumed = make_job(
        work_dir=tmp_path / "resumed", resume_from=whole.checkpoints_dir / f"step-{step:08d}"
    )
    events = run_here(resumed)
    assert adapter(resumed) == adapter(whole)
    assert events[-1] == undisturbed[-1]
    started = events[0]
    assert isinstance(started, Started)
    assert started.start_step == step
    later = [e for e in undisturbed if isinstance(e, StepDone) and e.step > step]
    again = [e for e in events if isinstance(e, StepDone)]
    assert [(e.step, e.loss, e.best_loss, e.gradient_norm) for e in again] == [
        (e.step, e.loss, e.best_loss, e.gradient_norm) for e in later
    ]
    assert checkpoint_bytes(resumed, 12) == checkpoint_bytes(whole, 12) or step == 12


def checkpoint_bytes(job: Job, step: int) -> dict[str, bytes]:
    directory = job.checkpoints_dir / f"step-{step:08d}"
    return {path.name: path.read_bytes() for path in directory.glob("*")}


@pytest.fixture
def stopped_at(run_here: RunHere) -> Callable[[Job, int], list[CheckpointSaved]]:
    """Runs a job that is asked to stop as soon as it tells of the step, or that it has started (0);
    returns the checkpoints."""

    class StopAt:
        def __init__(self, step: int) -> None:
            self.step = step
            self.request = StopRequest()
            self.saved: list[CheckpointSaved] = []

        def emit(self, event: Event) -> None:
            if isinstance(event, CheckpointSaved):
                self.saved.append(event)
            step = 0 if isinstance(event, Started) else getattr(event, "step", -1)
            self.request.requested |= step == self.step

    def run(job: Job, step: int) -> list[CheckpointSaved]:
        sink = StopAt(step)
        assert run_job(job, sink, sink.request, time.monotonic, Team()) is Ending.STOPPED
        return sink.saved

    return run


@pytest.mark.parametrize("stop_at", [0, 1, 7, 11])
def test_stopping_after_any_step_loses_nothing(
    stop_at: int,
    stopped_at: Callable[[Job, int], list[CheckpointSaved]],
    make_job: MakeJob,
    run_here: RunHere,
    tmp_path: Path,
) -> None:
    stopped = make_job(work_dir=tmp_path / "stopped")
    saved = stopped_at(stopped, stop_at)[-1]
    assert saved.step == stop_at
    assert not stopped.artifacts_dir.exists()

    resumed = make_job(work_dir=tmp_path / "resumed", resume_from=Path(saved.path))
    whole = make_job(work_dir=tmp_path / "whole")
    run_here(resumed)
    run_here(whole)
    assert adapter(resumed) == adapter(whole)


def test_a_run_that_stops_saves_no_step_a_second_time(
    stopped_at: Callable[[Job, int], list[CheckpointSaved]], make_job: MakeJob
) -> None:
    (saved,) = stopped_at(make_job(), 3)
    assert saved.step == 3
    assert stopped_at(make_job(resume_from=Path(saved.path)), 0) == []


def test_only_the_named_layers_are_tuned(make_job: MakeJob, run_here: RunHere) -> None:
    method = Lora(rank=2, alpha=4.0, dropout=0.0, target_modules=("q_proj",))
    started = run_here(make_job({"max_steps": 1}, method=method))[0]
    assert isinstance(started, Started)
    assert started.trainable_parameters == 2 * (32 * 2 + 2 * 32)  # two blocks of A and B


def test_a_layer_that_the_model_lacks_is_refused(make_job: MakeJob, run_here: RunHere) -> None:
    method = Lora(rank=2, alpha=4.0, dropout=0.0, target_modules=("c_attn",))
    with pytest.raises(InvalidJob, match="no layer 'c_attn'; there are down_proj"):
        run_here(make_job(method=method))


def test_a_directory_without_a_model_is_refused(
    make_job: MakeJob, run_here: RunHere, tmp_path: Path
) -> None:
    with pytest.raises(InvalidJob, match=r"has no config\.json"):
        run_here(make_job(base_model_dir=tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InvalidJob, match=r"no \*\.safetensors"):
        run_here(make_job(base_model_dir=tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(InvalidJob, match=r"tokenizer_config.json: there is no such file"):
        run_here(make_job(base_model_dir=tmp_path))


def test_a_base_model_with_a_hole_is_refused(
    make_job: MakeJob, run_here: RunHere, base_model: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "base"
    shutil.copytree(base_model, directory)
    path = directory / "model.safetensors"
    weights = safetensors.torch.load_file(path)
    del weights["model.layers.1.mlp.up_proj.weight"]
    safetensors.torch.save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(InvalidJob, match=r"weights lack model\.layers\.1\.mlp\.up_proj"):
        run_here(make_job(base_model_dir=directory))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InvalidJob, match="cannot be loaded"):
        run_here(make_job(base_model_dir=directory))


def test_a_base_model_whose_weights_are_not_of_its_config_is_refused(
    make_job: MakeJob, run_here: RunHere, base_model: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "base"
    shutil.copytree(base_model, directory)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"intermediate_size": 48}))
    with pytest.raises(InvalidJob, match="base_model_dir: cannot be loaded"):
        run_here(make_job(base_model_dir=directory))


def test_a_base_model_that_needs_an_absent_package_is_refused(
    make_job: MakeJob, run_here: RunHere, base_model: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "base"
    shutil.copytree(base_model, directory)
    config = json.loads((directory / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "aqlm"}
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidJob, match=r"base_model_dir: cannot be loaded: .*aqlm"):
        run_here(make_job(base_model_dir=directory))


def test_memory_that_runs_out_while_a_base_model_is_loaded_is_not_its_fault(
    make_job: MakeJob, run_here: RunHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried …")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", fail)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        run_here(make_job())


def asked(question: str) -> Conversation:
    return Conversation.of(Message(Role.USER, question))


def poisoned(base_model: Path, directory: Path) -> Path:
    """The base model, but with ß embedded as what is not a number."""
    shutil.copytree(base_model, directory)
    encoder = ChatEncoder.load(base_model)
    with_it, without = (set(encoder.prompt(asked(word))) for word in "ßa")
    path = directory / "model.safetensors"
    weights = safetensors.torch.load_file(path)
    weights["model.embed_tokens.weight"][sorted(with_it - without)] = float("nan")
    safetensors.torch.save_file(weights, path, metadata={"format": "pt"})
    return directory


def questions(letters: str) -> list[list[dict[str, Any]]]:
    return [
        [
            {"role": "user", "content": f"Is it {letter}?", "train": False},
            {"role": "assistant", "content": "Yes.", "train": True},
        ]
        for letter in letters
    ]


def test_a_run_that_diverges_says_at_which_step_and_rows(
    make_job: MakeJob,
    run_here: RunHere,
    base_model: Path,
    write_dataset: Callable[[Sequence[Any]], Path],
    tmp_path: Path,
) -> None:
    """Only the sixth row has the letter."""
    job = make_job(
        {"batch_size": 1, "validation_fraction": 0.0, "checkpoint_every": 1},
        base_model_dir=poisoned(base_model, tmp_path / "base"),
        dataset_file=write_dataset(questions("abcdeßfgh")),
    )
    with pytest.raises(TrainingDiverged, match=r"loss nan .* on the rows 5 \(from 0\)") as raised:
        run_here(job)
    assert not job.artifacts_dir.exists()
    assert raised.value.step > 1
    assert max(job.checkpoints_dir.iterdir()).name == f"step-{raised.value.step - 1:08d}"


def test_a_held_out_loss_that_is_no_number_ends_the_run_too(
    make_job: MakeJob,
    run_here: RunHere,
    base_model: Path,
    write_dataset: Callable[[Sequence[Any]], Path],
    tmp_path: Path,
) -> None:
    held_out = sorted(held_out_indices(9, 0.2, 7))
    letters = "".join("ß" if i in held_out else letter for i, letter in enumerate("abcdefghi"))
    job = make_job(
        {"validation_fraction": 0.2, "evaluate_every": 2},
        base_model_dir=poisoned(base_model, tmp_path / "base"),
        dataset_file=write_dataset(questions(letters)),
    )
    rows = ", ".join(map(str, held_out))
    with pytest.raises(TrainingDiverged, match=f"step 2 has held-out loss nan on the rows {rows} "):
        run_here(job)


def test_what_is_left_out_is_said(
    make_job: MakeJob, run_here: RunHere, write_dataset: Callable[[Sequence[Any]], Path]
) -> None:
    long = [
        {"role": "user", "content": "so " * 600, "train": False},
        {"role": "assistant", "content": "yes", "train": True},
    ]
    short = [{**long[0], "content": "so?"}, long[1]]
    longer = [short[0], {**short[1], "content": "yes " * 600}]
    path = write_dataset([short, short, long, longer])
    training = {"max_steps": 1, "warmup_steps": 9, "max_sequence_tokens": 10_000}
    events = run_here(make_job(training, dataset_file=path))
    messages = [event.message for event in events if isinstance(event, LogLine)]
    assert messages == [
        "the base model reads at most 512 tokens",
        "1 examples have no token to learn from and are left out",
        "1 examples are cut at 512 tokens",
        "the warm-up of 9 steps outlasts the run",
    ]


def test_a_template_that_hides_the_answers_is_refused(
    make_job: MakeJob, run_here: RunHere, base_model: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "base"
    shutil.copytree(base_model, directory)
    (directory / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.content | upper }}{{ eos_token }}{% endfor %}"
    )
    with pytest.raises(InvalidData, match="example 0: cannot tell the assistant's tokens"):
        run_here(make_job(base_model_dir=directory))
