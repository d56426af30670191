"""One job, from its description to its artifacts, by a tool."""

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.trainer.backends import axolotl, unsloth
from services.trainer.backends.blueprint import blueprint_of
from services.trainer.backends.child import ToolExit, Watching, run_tool
from services.trainer.backends.errors import ToolFailed, ToolOutOfMemory
from services.trainer.backends.limits import check, left_out
from services.trainer.backends.progress import Progress
from services.trainer.backends.recipe import Recipe, write_recipe
from services.trainer.backends.result import import_result
from services.trainer.backends.tools import Tool
from services.trainer.engine.base_model import check_base_model
from services.trainer.engine.events import EventSink, Finished, LogLine
from services.trainer.engine.job import Job
from services.trainer.engine.preparation import Preparation, prepare
from services.trainer.engine.process import StopRequest


class Adapter(Protocol):
    """What differs between the tools: `axolotl` and `unsloth` are modules of this form."""

    ENVIRONMENT: dict[str, str]

    def command(self, python: str, job: Job, recipe: Recipe) -> Sequence[str]:
        """Writes what the tool reads; returns the program to start."""
        ...


_ADAPTERS: dict[Tool, Adapter] = {Tool.AXOLOTL: axolotl, Tool.UNSLOTH: unsloth}


@dataclass(frozen=True, slots=True)
class Installed:
    """A tool, and the interpreter that has it."""

    tool: Tool
    python: str


def run_job(
    installed: Installed,
    job: Job,
    events: EventSink,
    stop: StopRequest,
    clock: Callable[[], float],
) -> bool:
    """Trains, and writes the artifacts; False if it was stopped before that.

    Raises InvalidJob, InvalidData and the errors of this package.
    """
    tool = installed.tool
    check_base_model(job.base_model_dir)
    check(job, tool)
    blueprint, ready = blueprint_of(job), prepare(job)
    recipe = write_recipe(job, ready, blueprint)
    _report_limits(job, tool, ready, events)

    progress = Progress(tool, recipe, ready.examples, events, clock)
    end = run_tool(
        _ADAPTERS[tool].command(installed.python, job, recipe),
        recipe.directory,
        _environment(tool, recipe),
        Watching(tool, recipe.held_out_file, job.training.evaluate_every),
        progress.take,
        stop,
    )
    if stop.requested:
        return False
    _check_end(tool, end, progress)
    artifacts = import_result(tool, job, blueprint, recipe.output_dir)
    events.emit(
        Finished(
            steps=progress.step,
            final_loss=progress.loss,
            best_loss=progress.best_loss,
            validation_loss=progress.validation_loss,
            artifacts=artifacts,
            token_accuracy=progress.token_accuracy,
        )
    )
    return True


def _report_limits(job: Job, tool: Tool, ready: Preparation, events: EventSink) -> None:
    """Says what of the dataset is not used, and what the engine would do besides."""
    limit, examples = ready.max_tokens, ready.examples
    notes = {
        f"the base model reads at most {limit} tokens": limit < job.training.max_sequence_tokens,
        f"{examples.skipped} examples have no token to learn from and are left out": (
            examples.skipped
        ),
        f"{examples.truncated} examples are cut at {limit} tokens": examples.truncated,
        f"{examples.dropped} examples of over {limit} tokens are left out": examples.dropped,
    }
    for note, holds in notes.items():
        if holds:
            events.emit(LogLine("warning", note))
    for note in left_out(job):
        events.emit(LogLine("warning", f"{tool} trains this job: {note}"))


def _environment(tool: Tool, recipe: Recipe) -> dict[str, str]:
    """One GPU: of several a Trainer would take all, each with a batch of its own. No progress bars:
    nobody sees them move."""
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")
    return {
        **os.environ,
        "PYTHONSAFEPATH": "",  # else the programs inside would not find each other
        **_ADAPTERS[tool].ENVIRONMENT,
        "CUDA_VISIBLE_DEVICES": gpus[0],
        "HF_DATASETS_CACHE": str(recipe.directory / "cache"),
        "PYTHONUNBUFFERED": "1",
        "TQDM_DISABLE": "1",
    }


def _check_end(tool: Tool, end: ToolExit, progress: Progress) -> None:
    """Raises ToolOutOfMemory and ToolFailed unless the tool has done all that it was asked for."""
    last = end.last_lines[-1] if end.last_lines else "it said nothing"
    where = f"after step {progress.step}: {last}"
    if end.status < 0:
        name = signal.Signals(-end.status).name
        hint = " (the kernel does that when memory runs out)" if name == "SIGKILL" else ""
        raise ToolFailed(f"{tool} was ended by {name}{hint} {where}")
    if end.status > 0:
        if _tells_of_full_memory(end):
            raise ToolOutOfMemory(f"{tool} ran out of memory {where}")
        raise ToolFailed(f"{tool} left with status {end.status} {where}")
    if not progress.is_complete:
        raise ToolFailed(f"{tool} left without having trained all steps, {where}")


def _tells_of_full_memory(end: ToolExit) -> bool:
    """Torch has an error of its own for a GPU's memory; for the machine's only words."""
    said = "\n".join(end.last_lines).lower()
    return "out of memory" in said or "can't allocate memory" in said
