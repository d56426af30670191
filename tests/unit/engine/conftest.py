"""A base model small enough to train in a test, data for it, and ways to run a job."""

import json
import subprocess
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from services.trainer.engine.events import Alive, Event
from services.trainer.engine.job import Job, Training, job_json
from services.trainer.engine.methods import Lora
from services.trainer.engine.process import StopRequest
from services.trainer.engine.run import run_job
from services.trainer.engine.team import Team
from tests.unit.engine.families import llama

ROOT = Path(__file__).parents[3]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{{ eos_token }}"
    "{% endgeneration %}{% else %}{{ m.content }}{{ eos_token }}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
SPECIAL_TOKENS = ["<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>"]
COLOURS = ["red", "green", "blue", "black", "white", "yellow", "orange", "violet"]

Row = list[dict[str, Any]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # PEFT still asks transformers for a property under its old name.
    ours = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(ours)


def _colour_rows(count: int) -> list[Row]:
    """A toy task of skewed lengths: tell the last colour of a list."""
    rows: list[Row] = []
    for i in range(count):
        listed = [COLOURS[(i * 3 + k * k) % len(COLOURS)] for k in range(1 + (i * i) % 7)]
        rows.append(
            [
                {"role": "user", "content": f"Last of {' '.join(listed)}?", "train": False},
                {"role": "assistant", "content": f"It is {listed[-1]}.", "train": True},
            ]
        )
    return rows


def _save_tokenizer(directory: Path) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    text = [message["content"] for row in _colour_rows(64) for message in row]
    tokenizer.train_from_iterator(text, trainer)
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": TEMPLATE}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))


@pytest.fixture(scope="session")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two blocks with a tokenizer of 320 ids."""
    directory = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    llama().save_pretrained(directory)
    _save_tokenizer(directory)
    return directory


@pytest.fixture
def write_dataset(tmp_path: Path) -> Callable[[Sequence[Any]], Path]:
    """Writes rows of messages as the dataset service does; returns the file."""
    message = pa.struct([("role", pa.string()), ("content", pa.string()), ("train", pa.bool_())])

    def write(rows: Sequence[Any]) -> Path:
        path = tmp_path / "dataset.parquet"
        pq.write_table(pa.table({"messages": pa.array(rows, pa.list_(message))}), path)
        return path

    return write


@pytest.fixture
def make_job(
    base_model: Path, write_dataset: Callable[[Sequence[Any]], Path], tmp_path: Path
) -> Callable[..., Job]:
    """Builds a job of 12 steps over two epochs of 36 examples, 4 more being held out.

    `training` replaces fields of the job's training, other arguments those of the job.
    """
    settings = Training(
        max_steps=12,
        epochs=0.0,
        batch_size=6,
        learning_rate=0.01,
        warmup_steps=2,
        schedule="cosine",
        weight_decay=0.01,
        max_grad_norm=1.0,
        max_sequence_tokens=256,
        validation_fraction=0.1,
        evaluate_every=5,
        checkpoint_every=3,
        precision="float32",
        keep_last_checkpoints=100,
        sample_count=0,
    )
    job = Job(
        job="test",
        seed=7,
        base_model_dir=base_model,
        dataset_file=write_dataset(_colour_rows(40)),
        work_dir=tmp_path / "work",
        resume_from=None,
        method=Lora(rank=4, alpha=8.0, dropout=0.1, target_modules=()),
        training=settings,
        threads=1,
    )

    def make(training: dict[str, Any] | None = None, **fields: Any) -> Job:
        return replace(job, training=replace(settings, **(training or {})), **fields)

    return make


class _Record:
    """What is told, but for the signs of life."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        if not isinstance(event, Alive):
            self.events.append(event)


@pytest.fixture
def run_here() -> Generator[Callable[[Job], list[Event]]]:
    """Runs a job in this process and returns its events."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()

    def run(job: Job) -> list[Event]:
        record = _Record()
        run_job(job, record, StopRequest(), time.monotonic, Team())
        return record.events

    yield run
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)


class Engine:
    """A running engine, as the node sees it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.events: list[dict[str, Any]] = []

    def read_until(self, kind: str, step: int = 0) -> dict[str, Any]:
        """Reads events up to the first of this kind at this step or later."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.events.append(json.loads(line))
            if self.events[-1]["type"] == kind and self.events[-1].get("step", 0) >= step:
                return self.events[-1]
        raise AssertionError(f"the engine ended without {kind} {step}: {self.events[-3:]}")

    def finish(self) -> int:
        """Reads to the end; returns the exit code."""
        assert self.process.stdout is not None
        self.events += [json.loads(line) for line in self.process.stdout]
        return self.process.wait(60)


@pytest.fixture
def start_engine(
    quick_engine: Sequence[str], tmp_path: Path
) -> Generator[Callable[[Job | str], Engine]]:
    """Starts the engine as a child process on a job, or on a job file of this content."""

    @contextmanager
    def running(text: str) -> Generator[Engine]:
        path = tmp_path / "job.json"
        path.write_text(text)
        with subprocess.Popen(
            [*quick_engine, str(path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
            try:
                yield Engine(process)
            finally:
                process.kill()

    with ExitStack() as stack:
        yield lambda job: stack.enter_context(
            running(job if isinstance(job, str) else job_json(job))
        )
