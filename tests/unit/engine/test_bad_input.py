"""What a run does with input that nothing good can come of."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from services.trainer.engine.errors import InvalidData, InvalidJob, TrainingDiverged
from services.trainer.engine.events import Event, Finished, LogLine, StepDone
from services.trainer.engine.job import Job
from services.trainer.engine.methods import Full

MakeJob = Callable[..., Job]
RunHere = Callable[[Job], list[Event]]
Write = Callable[[Sequence[Any]], Path]


def conversation(question: str, train: bool = True) -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": question, "train": False},
        {"role": "assistant", "content": "Yes.", "train": train},
    ]


def warnings(events: list[Event]) -> list[str]:
    return [event.message for event in events if isinstance(event, LogLine)]


@pytest.fixture
def base_with(base_model: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the base model with these fields added to its config."""

    def copied(**config: Any) -> Path:
        directory = tmp_path / "base"
        shutil.copytree(base_model, directory)
        path = directory / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))
        return directory

    return copied


def test_nothing_can_be_held_out_of_one_example(
    make_job: MakeJob, run_here: RunHere, write_dataset: Write
) -> None:
    training = {"max_steps": 3, "early_stopping_patience": 2, "evaluate_every": 1}
    job = make_job(training, dataset_file=write_dataset([conversation("Is it a?")]))
    events = run_here(job)
    assert warnings(events) == [
        "there are too few examples to hold any out",
        "nothing is held out, so the run cannot stop early",
    ]
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert (finished.steps, finished.validation_loss) == (3, None)


def test_patience_without_a_share_to_hold_out_is_warned_of(
    make_job: MakeJob, run_here: RunHere
) -> None:
    training = {"max_steps": 1, "warmup_steps": 0, "validation_fraction": 0.0}
    events = run_here(make_job(training | {"early_stopping_patience": 1}))
    assert warnings(events) == ["nothing is held out, so the run cannot stop early"]


def test_a_dataset_without_a_token_to_learn_from_is_refused(
    make_job: MakeJob, run_here: RunHere, write_dataset: Write
) -> None:
    masked = write_dataset([conversation(f"Is it {letter}?", train=False) for letter in "abcd"])
    with pytest.raises(InvalidData, match="none of the 4 examples has a token to learn from"):
        run_here(make_job(dataset_file=masked))


def test_examples_without_a_token_to_learn_from_make_no_batch_of_their_own(
    make_job: MakeJob, run_here: RunHere, write_dataset: Write
) -> None:
    rows = [conversation(f"Is it {letter}?", train=letter == "c") for letter in "abcd"]
    training = {"batch_size": 1, "max_steps": 4, "validation_fraction": 0.0}
    events = run_here(make_job(training, dataset_file=write_dataset(rows)))
    losses = [event.loss for event in events if isinstance(event, StepDone)]
    assert len(losses) == 4
    assert losses[-1] < losses[0]


def test_a_base_model_that_wants_code_of_its_own_run_is_refused(
    make_job: MakeJob, run_here: RunHere, base_with: Callable[..., Path]
) -> None:
    """Its file would leave a trace."""
    directory = base_with(auto_map={"AutoModelForCausalLM": "modeling.Model"})
    trace = directory / "trace"
    (directory / "modeling.py").write_text(f"open({str(trace)!r}, 'w')")
    with pytest.raises(InvalidJob, match="wants code of its own run"):
        run_here(make_job(base_model_dir=directory))
    assert not trace.exists()


def test_a_base_model_with_pickled_weights_alone_is_refused(
    make_job: MakeJob, run_here: RunHere, base_with: Callable[..., Path]
) -> None:
    directory = base_with()
    (directory / "model.safetensors").unlink()
    torch.save({"weight": torch.ones(1)}, directory / "pytorch_model.bin")
    with pytest.raises(InvalidJob, match="pickled weights are not read"):
        run_here(make_job(base_model_dir=directory))


def test_a_learning_rate_beyond_reason_ends_in_a_typed_failure_with_the_last_checkpoint(
    make_job: MakeJob, run_here: RunHere
) -> None:
    hasty = {
        "learning_rate": 10.0,
        "warmup_steps": 0,
        "schedule": "constant",
        "max_grad_norm": 0.0,
        "max_steps": 200,
        "checkpoint_every": 1,
        "evaluate_every": 0,
        "weight_decay": 10.0,
    }
    job = make_job(hasty, method=Full())
    with pytest.raises(TrainingDiverged, match="A lower learning rate") as raised:
        run_here(job)
    assert max(job.checkpoints_dir.iterdir()).name == f"step-{raised.value.step - 1:08d}"
    assert not job.artifacts_dir.exists()
