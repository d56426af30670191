"""What both tools are told: the engine's reading of the job, as files and figures."""

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from services.trainer.backends.blueprint import Blueprint
from services.trainer.engine.errors import InvalidData
from services.trainer.engine.examples import Example, Examples
from services.trainer.engine.job import Job
from services.trainer.engine.preparation import Preparation

_NO_LABEL = -100
"""What torch's cross-entropy leaves out."""
_SEEDS = 2**32
_NO_CLIPPING = 1e9
"""A norm that none exceeds; of a limit of 0 the tools make no norm at all, so none to tell."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Examples are rows of `input_ids`, `attention_mask` and `labels`, a line of JSON each, those
    held out in a file of their own (None: there are none). A step holds `micro_batch` examples
    `accumulation` times. `output_dir` is the tool's own, in `directory`."""

    directory: Path
    rows_file: Path
    held_out_file: Path | None
    max_tokens: int
    total_steps: int
    epochs: float
    micro_batch: int
    accumulation: int
    seed: int
    max_gradient_norm: float
    recompute: bool
    targets: tuple[str, ...]
    stores_transposed: bool
    on_gpu: bool

    @property
    def output_dir(self) -> Path:
        return self.directory / "output"


def write_recipe(job: Job, ready: Preparation, blueprint: Blueprint) -> Recipe:
    """Writes the examples, in a directory of its own within the job's. Raises InvalidData if they
    have weights."""
    _check_weights(ready.examples)
    directory = job.work_dir / "tool"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    training, examples = job.training, ready.examples
    longest = max(map(len, examples.training))
    micro_batch = _micro_batch(training.batch_size, longest, training.micro_batch_tokens)
    return Recipe(
        directory=directory,
        rows_file=_written(directory / "rows.jsonl", examples.training),
        held_out_file=_written(directory / "held-out.jsonl", examples.validation)
        if examples.validation
        else None,
        max_tokens=ready.max_tokens,
        total_steps=ready.total_steps,
        epochs=ready.plan.epochs_done(ready.total_steps),
        micro_batch=micro_batch,
        accumulation=training.batch_size // micro_batch,
        seed=job.seed % _SEEDS,
        max_gradient_norm=training.max_grad_norm or _NO_CLIPPING,
        recompute=training.gradient_checkpointing != "off",
        targets=blueprint.targets,
        stores_transposed=blueprint.stores_transposed,
        on_gpu=ready.device.type == "cuda",
    )


def _check_weights(examples: Examples) -> None:
    """Labels say whether a token counts, not how much."""
    weighted = [e.row for e in (*examples.training, *examples.validation) if e.weights is not None]
    if weighted:
        raise InvalidData(
            f"example {min(weighted)} has a message whose weight is neither 0 nor 1, which this "
            "backend cannot heed; the backend builtin can"
        )


def _micro_batch(batch_size: int, longest: int, limit: int) -> int:
    """As many examples as divide the batch evenly and, each as long as the longest, are of at most
    `limit` tokens (0: any number); at least one."""
    fitting = batch_size if limit == 0 else min(batch_size, limit // longest)
    return max((n for n in range(1, fitting + 1) if batch_size % n == 0), default=1)


def _written(path: Path, examples: Iterable[Example]) -> Path:
    with path.open("w") as file:
        file.writelines(_lines(examples))
    return path


def _lines(examples: Iterable[Example]) -> Iterator[str]:
    """The very tokens and labels that the engine would learn from."""
    for example in examples:
        ids = example.token_ids.tolist()
        pairs = zip(ids, example.labeled, strict=True)
        labels = [token if labeled else _NO_LABEL for token, labeled in pairs]
        row = {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels}
        yield json.dumps(row, separators=(",", ":")) + "\n"
