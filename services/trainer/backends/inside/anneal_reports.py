"""Tells the program that started this one how a transformers Trainer gets on.

Each report is a line of JSON on the descriptor that the environment names, written whole. Runs in
a tool's interpreter: imports nothing of Anneal.
"""

import importlib.metadata
import json
import math
import os
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.nn import functional

_transformers: Any = transformers  # untyped package
_functional: Any = functional

SETTINGS = "ANNEAL_REPORTS"
"""Environment variable with a JSON object: `descriptor`, `tool`, `held_out_file` (or null) and
`evaluate_every` (steps; 0: only after the last)."""

_NO_LABEL = -100


def watch(trainer: Any) -> Any:
    """A callback for `trainer`, which must be added to it before it trains."""
    settings = json.loads(os.environ[SETTINGS])
    file = settings["held_out_file"]
    held_out = [json.loads(line) for line in Path(file).read_text().splitlines()] if file else []
    reports = _Reports(
        settings["descriptor"], settings["tool"], held_out, settings["evaluate_every"]
    )
    trainer.data_collator = reports.counting(trainer.data_collator)
    return reports


class _Reports(_transformers.TrainerCallback):
    """Tells of the beginning, of each step, of the held-out loss, and of the end.

    Trainers evaluate too, but average over batches; this is the mean over the labeled tokens, as
    the engine's. Batches are collated in the order in which they are trained, a few ahead.
    """

    def __init__(
        self, descriptor: int, tool: str, held_out: list[dict[str, list[int]]], every: int
    ) -> None:
        self._descriptor, self._tool = descriptor, tool
        self._held_out, self._every = held_out, every
        self._collated: deque[int] = deque()
        self._tokens = 0
        self._rate = 0.0

    def counting(self, collate: Callable[[list[Any]], Any]) -> Callable[[list[Any]], Any]:
        """`collate`, noting how many tokens without padding each batch has."""

        def counted(examples: list[Any]) -> Any:
            self._collated.append(sum(len(example["input_ids"]) for example in examples))
            return collate(examples)

        return counted

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        args.logging_nan_inf_filter = False  # it would put a mean in the place of what diverged
        model = given["model"]
        _keep_gradients_right(model)
        self._tell(
            report="began",
            total_steps=state.max_steps,
            trainable_parameters=sum(_count(p) for p in model.parameters() if p.requires_grad),
            total_parameters=sum(map(_count, model.parameters())),
            device=torch.device(model.device).type,
            software=_software(self._tool),
        )

    def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self._rate = float(given["lr_scheduler"].get_last_lr()[0])
        self._tokens = 0

    def on_substep_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self._count_batch()

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self._count_batch()

    def on_log(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        logs = given["logs"]
        if "loss" not in logs:
            return
        self._tell(
            report="step",
            step=state.global_step,
            epoch=float(state.epoch),
            loss=float(logs["loss"]),
            learning_rate=self._rate,
            gradient_norm=float(logs.get("grad_norm", 0.0)),
            tokens=self._tokens,
        )
        last = state.global_step >= state.max_steps
        due = self._every > 0 and state.global_step % self._every == 0
        if self._held_out and (last or due):
            self._evaluate(state.global_step, given["model"])

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self._tell(report="ended", step=state.global_step)

    def _count_batch(self) -> None:
        """Nothing is known of batches that another process collated."""
        if self._collated:
            self._tokens += self._collated.popleft()

    def _evaluate(self, step: int, model: Any) -> None:
        """One row at a time: the logits of a batch may be larger than all else in memory."""
        loss, right, count = 0.0, 0, 0
        with _evaluating(model):
            for row in self._held_out:
                logits, labels = _labeled(model, row)
                loss += _functional.cross_entropy(logits, labels, reduction="sum").item()
                right += int((logits.argmax(-1) == labels).sum())
                count += len(labels)
        self._tell(
            report="evaluated",
            step=step,
            loss=loss / count,
            token_accuracy=right / count,
            tokens=sum(len(row["input_ids"]) for row in self._held_out),
        )

    def _tell(self, **report: Any) -> None:
        line = memoryview(json.dumps(report).encode() + b"\n")
        while line:
            line = line[os.write(self._descriptor, line) :]


def _keep_gradients_right(model: Any) -> None:
    """On CPUs with AVX512-BF16 an evaluation makes bitsandbytes repack 4-bit weights in place, for
    a product that has no gradient: the steps after it would go astray without a word."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


@contextmanager
def _evaluating(model: Any) -> Generator[None]:
    trained = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(trained)


def _labeled(model: Any, row: dict[str, list[int]]) -> tuple[Any, Any]:
    """The logits at the labels of a row, (labels, vocabulary), and the labels."""
    ids = torch.tensor([row["input_ids"]], device=model.device)
    labels = torch.tensor(row["labels"][1:], device=model.device)
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    if logits.shape[:2] != ids.shape:
        raise RuntimeError(f"the model gives logits of shape {tuple(logits.shape)} in evaluation")
    chosen = labels != _NO_LABEL
    return logits[0, :-1][chosen].float(), labels[chosen]


def _count(parameter: Any) -> int:
    """The numbers in it; bitsandbytes packs two of 4 bits into a byte."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else math.prod(state.shape)


def _software(tool: str) -> str:
    return ", ".join(f"{name} {_version(name)}" for name in (tool, "transformers", "torch"))


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "of no known version"
