"""Every method on every family: it learns, leaves the base alone, and its result answers alike."""

import json
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from transformers import LlamaForCausalLM

from services.trainer.engine.errors import InvalidJob
from services.trainer.engine.events import Event, Finished, Sampled, Started, StepDone
from services.trainer.engine.examples import load_encoder, load_examples
from services.trainer.engine.job import Job
from services.trainer.engine.methods import Adapter, Full, Lora, Prefix, Qlora, TuningMethod
from services.trainer.engine.samples import prompt_and_answer
from tests.unit.engine.families import FAMILIES, llama, save_base_model
from tests.unit.engine.reload import answer, first_logits, load

MakeJob = Callable[..., Job]
RunHere = Callable[[Job], list[Event]]

ROOT = Path(__file__).parents[3]
METHODS: dict[str, tuple[TuningMethod, float]] = {
    "full": (Full(), 0.005),
    "lora": (Lora(rank=4, alpha=8.0), 0.01),
    "rslora": (Lora(rank=4, alpha=8.0, rslora=True), 0.01),
    "dora": (Lora(rank=4, alpha=8.0, dora=True, dropout=0.0), 0.01),
    "qlora": (Qlora(rank=4, alpha=8.0), 0.01),
    "qlora8": (Qlora(rank=4, alpha=8.0, bits=8), 0.01),
    "prefix": (Prefix(prefix_length=8), 0.1),
    "adapter": (Adapter(adapter_size=8, placement="houlsby"), 0.02),
}
KINDS = ("full", "lora", "qlora", "prefix", "adapter")
BITS = {"qlora": 4, "qlora8": 8}
SHORT = {"max_steps": 30, "evaluate_every": 0, "checkpoint_every": 0}
EVERY = [(family, name) for family in FAMILIES for name in METHODS]


@pytest.fixture(scope="session")
def base_of(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The directory of a family's base model."""
    made: dict[str, Path] = {}

    def directory(family: str) -> Path:
        if family not in made:
            made[family] = save_base_model(family, tmp_path_factory.mktemp(family), base_model)
        return made[family]

    return directory


@pytest.fixture
def job_for(make_job: MakeJob, base_of: Callable[[str], Path]) -> Callable[..., Job]:
    def job(family: str, name: str, training: dict[str, Any] | None = None, **fields: Any) -> Job:
        method, rate = METHODS[name]
        settings = {**SHORT, "learning_rate": rate, **(training or {})}
        return make_job(settings, **{"base_model_dir": base_of(family), "method": method} | fields)

    return job


def losses(events: list[Event]) -> list[float]:
    return [event.loss for event in events if isinstance(event, StepDone)]


@pytest.mark.parametrize(("family", "name"), EVERY)
def test_a_method_learns_and_its_result_answers_alike_when_it_is_loaded_again(
    family: str, name: str, job_for: Callable[..., Job], run_here: RunHere
) -> None:
    job = job_for(family, name, {"sample_count": 1, "sample_max_tokens": 12})
    base = safetensors.torch.load_file(job.base_model_dir / "model.safetensors")
    events = run_here(job)

    assert losses(events)[-1] < 0.9 * losses(events)[0]
    (sampled,) = (event for event in events if isinstance(event, Sampled))
    encoder = load_encoder(job.base_model_dir)
    prompt = _prompt(job, sampled.samples[0].prompt)
    output = answer(load(job.base_model_dir, job.artifacts_dir, BITS.get(name, 0)), prompt)
    start = 1 if family == "t5" else len(prompt)
    assert encoder.decode(output[start:]) == sampled.samples[0].output
    if name != "full":
        after = dict(load(job.base_model_dir, job.artifacts_dir).unload().state_dict())
        assert all(torch.equal(after[key], value) for key, value in base.items())


def _prompt(job: Job, text: str) -> list[int]:
    """The held-out prompt of this text, as ids."""
    encoder = load_encoder(job.base_model_dir)
    examples = load_examples(job.dataset_file, encoder, 256, job.training, job.seed)
    prompts = [prompt_and_answer(example)[0] for example in examples.validation]
    return next(ids for ids in prompts if encoder.decode(ids) == text)


def test_results_answer_alike_in_a_process_of_its_own(
    job_for: Callable[..., Job], run_here: RunHere, tmp_path: Path
) -> None:
    brief = {"max_steps": 2, "warmup_steps": 0, "validation_fraction": 0.0}
    prompt = [0, 3, 40, 41, 42, 1, 4]
    here: list[tuple[list[int], Any]] = []
    questions: list[Any] = []
    for family, name in ((family, name) for family in FAMILIES for name in KINDS):
        job = job_for(family, name, brief, work_dir=tmp_path / f"{family} {name}")
        run_here(job)
        bits = BITS.get(name, 0)
        model = load(job.base_model_dir, job.artifacts_dir, bits)
        here.append((answer(model, prompt), pytest.approx(first_logits(model, prompt), abs=1e-4)))
        questions.append([str(job.base_model_dir), str(job.artifacts_dir), bits, prompt])
    path = tmp_path / "questions.json"
    path.write_text(json.dumps(questions))
    command = [sys.executable, "-W", "ignore", "-m", "tests.unit.engine.reload", str(path)]
    there = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert [tuple(each) for each in json.loads(there.stdout.splitlines()[-1])] == here


@pytest.mark.parametrize("name", METHODS)
def test_resuming_any_method_gives_the_same_bytes(
    name: str, job_for: Callable[..., Job], run_here: RunHere, tmp_path: Path
) -> None:
    training = {"max_steps": 6, "checkpoint_every": 1, "evaluate_every": 2}
    whole = job_for("llama", name, training, work_dir=tmp_path / "whole")
    undisturbed = run_here(whole)
    for step in range(1, 6):
        resumed = job_for(
            "llama",
            name,
            training,
            work_dir=tmp_path / "resumed",
            resume_from=whole.checkpoints_dir / f"step-{step:08d}",
        )
        finished = run_here(resumed)[-1]
        assert isinstance(finished, Finished)
        assert finished == undisturbed[-1]  # with the digests of all files


@pytest.mark.parametrize("name", ["qlora", "qlora8"])
def test_an_evaluation_in_mid_run_changes_no_gradient(
    name: str, job_for: Callable[..., Job], run_here: RunHere, tmp_path: Path
) -> None:
    quiet = job_for("llama", name, work_dir=tmp_path / "quiet")
    busy = job_for("llama", name, {"evaluate_every": 3}, work_dir=tmp_path / "busy")
    assert losses(run_here(quiet)) == losses(run_here(busy))


@pytest.mark.parametrize("name", ["qlora", "qlora8"])
def test_layers_that_do_not_divide_into_blocks_are_quantised_too(
    name: str, job_for: Callable[..., Job], run_here: RunHere, base_model: Path, tmp_path: Path
) -> None:
    """bitsandbytes scales 64 weights together: some here have 10 to 20 of two rows, and the last
    block of a layer is short."""
    config = llama().config
    config.update({"hidden_size": 40, "head_dim": 10, "intermediate_size": 50})
    base = tmp_path / "base"
    shutil.copytree(base_model, base)
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(base)
    runs = [
        losses(run_here(job_for("llama", each, base_model_dir=base, work_dir=tmp_path / each)))
        for each in ("lora", name)
    ]
    assert runs[1] == pytest.approx(runs[0], rel=0.1)
    assert runs[1][-1] < 0.9 * runs[1][0]


@pytest.mark.parametrize("name", ["full", "lora", "prefix", "adapter"])
def test_training_goes_on_from_an_earlier_result(
    name: str, job_for: Callable[..., Job], run_here: RunHere, tmp_path: Path
) -> None:
    first = job_for("llama", name, {"max_steps": 60}, work_dir=tmp_path / "first")
    earlier = losses(run_here(first))
    second = job_for(
        "llama",
        name,
        {"max_steps": 5, "warmup_steps": 0},
        work_dir=tmp_path / "second",
        start_from=first.artifacts_dir,
    )
    assert losses(run_here(second))[0] < 0.75 * earlier[0]


def test_an_earlier_result_of_another_method_is_refused(
    job_for: Callable[..., Job], run_here: RunHere, tmp_path: Path
) -> None:
    first = job_for("llama", "lora", {"max_steps": 1}, work_dir=tmp_path / "first")
    run_here(first)
    other = Lora(rank=8, alpha=8.0)
    for name, method in (("adapter", METHODS["adapter"][0]), ("lora", other)):
        job = job_for("llama", name, method=method, start_from=first.artifacts_dir)
        with pytest.raises(InvalidJob, match=r"start_from: is an adapter of another method or"):
            run_here(job)
    with pytest.raises(InvalidJob, match="start_from: holds no adapter"):
        run_here(job_for("llama", "lora", start_from=tmp_path))


def test_the_method_of_the_manual_trains_what_it_says(
    job_for: Callable[..., Job], run_here: RunHere, tmp_path: Path
) -> None:
    manual = (ROOT / "docs" / "methods.md").read_text()
    path = tmp_path / "bitfit.py"
    path.write_text(manual.split("```python\n")[1].split("```")[0])
    bitfit = runpy.run_path(str(path))["Bitfit"]()
    job = job_for("gpt2", "full", {"learning_rate": 0.05}, method=bitfit)
    events = run_here(job)
    assert losses(events)[-1] < 0.95 * losses(events)[0]
    trained = safetensors.torch.load_file(job.artifacts_dir / "biases.safetensors")
    assert trained
    assert all(name.endswith("bias") for name in trained)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("full", 320 * 32 * 2 + 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64 + 2 * 32) + 32),
        ("lora", 2 * 4 * (2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 64))),
        ("prefix", 2 * 2 * 8 * 2 * 8),
        ("adapter", 2 * 2 * (2 * 32 * 8 + 8 + 32)),
    ],
)
def test_a_method_trains_as_many_parameters_as_its_formula_says(
    name: str, count: int, job_for: Callable[..., Job], run_here: RunHere
) -> None:
    started = run_here(job_for("llama", name, {"max_steps": 1}))[0]
    assert isinstance(started, Started)
    assert started.trainable_parameters == count
