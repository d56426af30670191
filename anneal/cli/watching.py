"""How a job is watched: a live bar for people, lines for pipes, JSON lines for programs."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.text import Text

from anneal.cli.printing import Format, duration, is_terminal, one_line, print_json_line, size
from anneal.client import Client
from anneal.enums import word_of
from anneal.names import last_part
from anneal.trainer.v1.tuning_job_pb2 import (
    Checkpoint,
    Evaluation,
    LogLine,
    Samples,
    TrainingResumed,
    TrainingStarted,
    TrainingStep,
    TuningJob,
    TuningJobEvent,
)

WAITING = {
    TuningJob.STATE_QUEUED: "waiting for a node  ",
    TuningJob.STATE_RUNNING: "getting ready  ",
    TuningJob.STATE_CANCELLING: "stopping  ",
    TuningJob.STATE_PAUSING: "pausing  ",
    TuningJob.STATE_PAUSED: "paused, until it is resumed  ",
}
"""What the bar says between a change of state and the next step."""

MEANINGS = {
    TuningJob.STATE_PAUSING: "stops after its step, with a checkpoint",
    TuningJob.STATE_PAUSED: "waits until it is resumed",
}
"""What a line adds to a state's name and to what caused it."""

LEAVING = {
    TuningJob.STATE_PAUSING: "the job pauses; have it go on with: anneal job resume {name}",
    TuningJob.STATE_PAUSED: "the job is paused; have it go on with: anneal job resume {name}",
}
GOES_ON = "the job goes on; see it again with: anneal job watch {name}"
"""What Ctrl-C answers, by the job's state."""

STEP_LINE_EVERY_S = 1.0
"""In plain lines, steps that are closer together than this are left out."""

SAMPLE_CHARACTERS = 240
"""What is shown of each text of a sample: of a prompt the end, of answers the beginning."""

DIGEST_CHARACTERS = 12


class View(Protocol):
    """Shows events as they come."""

    def show(self, event: TuningJobEvent) -> None: ...


def watch_job(client: Client, job: str, after_sequence: int, output: Format) -> TuningJob:
    """Shows a job's events until it has ended, and returns it; one that is paused has not.

    Ctrl-C says how to go on and is passed on.
    """
    name = last_part(job)
    state = TuningJob.STATE_UNSPECIFIED
    try:
        with _view(name, output) as view:
            for event in client.jobs.watch(job, after_sequence=after_sequence):
                view.show(event)
                state = event.state_change.to or state
    except KeyboardInterrupt:
        if output is Format.TEXT:
            print("\n" + LEAVING.get(state, GOES_ON).format(name=name))
        raise
    ended = client.jobs.get(job)
    if output is Format.TEXT:
        print(_ending(client, ended))
    return ended


def _view(name: str, output: Format) -> AbstractContextManager[View]:
    if output is Format.JSON:
        return nullcontext(JsonLines())
    return LiveBar(name) if is_terminal() else nullcontext(PlainLines())


class JsonLines:
    """An event a line."""

    def show(self, event: TuningJobEvent) -> None:
        print_json_line(event)


class PlainLines:
    """A line for each event; of steps, one a second of their own time and the last of a row."""

    def __init__(self) -> None:
        self._held: TuningJobEvent | None = None
        self._last_step_s = 0.0

    def show(self, event: TuningJobEvent) -> None:
        if event.WhichOneof("event") == "step":
            self._hold_or_print(event)
            return
        if self._held is not None:
            self._print_step(self._held)
        for line in lines_of(event):
            print(line, flush=True)

    def _hold_or_print(self, event: TuningJobEvent) -> None:
        at_s = event.time.seconds + event.time.nanos / 1e9
        if at_s - self._last_step_s >= STEP_LINE_EVERY_S:
            self._print_step(event)
        else:
            self._held = event

    def _print_step(self, event: TuningJobEvent) -> None:
        self._held = None
        self._last_step_s = event.time.seconds + event.time.nanos / 1e9
        for line in lines_of(event):
            print(line, flush=True)


class LiveBar:
    """A bar, with the figures of the last step below it and everything else in lines above it."""

    def __init__(self, name: str, console: Console | None = None) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[place]}"),
        )
        self._task = self._progress.add_task(name, total=None, place="")
        self._step = ""
        self._held_out = ""
        self._live = Live(self._screen("waiting for a node"), console=console)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, event: TuningJobEvent) -> None:
        match event.WhichOneof("event"):
            case "step":
                self._show_step(event.step)
                return
            case "evaluation":
                self._held_out = f"held-out {event.evaluation.loss:.4f}"
            case "started":
                self._progress.update(self._task, total=event.started.total_steps)
            case "state_change":
                self._step = WAITING.get(event.state_change.to, self._step)
            case _:
                pass
        self._live.update(self._screen(self._step))
        for line in lines_of(event):
            self._live.console.print(line, markup=False, highlight=False)

    def _show_step(self, step: TrainingStep) -> None:
        place = f"{step.step}/{step.total_steps}  ETA {duration(step.eta.ToSeconds())}"
        self._progress.update(self._task, total=step.total_steps, completed=step.step, place=place)
        self._step = (
            f"loss {step.loss:.4f}  best {step.best_loss:.4f}  "
            f"{step.tokens_per_second:,.0f} tokens/s  "
        )
        self._live.update(self._screen(self._step))

    def _screen(self, figures: str) -> Group:
        return Group(self._progress, Text(figures + self._held_out))


def lines_of(event: TuningJobEvent) -> Iterator[str]:
    """Yields an event in words."""
    match event.WhichOneof("event"):
        case "state_change":
            yield _state_change(event)
        case "started":
            yield _started(event.started)
        case "step":
            yield _step(event.step)
        case "evaluation":
            yield _evaluation(event.evaluation)
        case "checkpoint":
            yield _checkpoint(event.checkpoint)
        case "samples":
            yield from _samples(event.samples)
        case "resumed":
            yield _resumed(event.resumed)
        case "relieved":
            yield f"warning: step {event.relieved.step}: {event.relieved.message}"
        case "log":
            yield _log(event.log)
        case _:  # an event of a newer service
            return


def state_word(state: TuningJob.State.ValueType) -> str:
    """Returns `RUNNING` for STATE_RUNNING, and so on."""
    return word_of(TuningJob.State.DESCRIPTOR, state)


def _state_change(event: TuningJobEvent) -> str:
    change = event.state_change
    words = [words for words in (change.cause, MEANINGS.get(change.to)) if words]
    told = f": {'; '.join(words)}" if words else ""
    return f"{state_word(change.to)}{_of_attempt(event)}{told}"


def _of_attempt(event: TuningJobEvent) -> str:
    return f" (attempt {event.attempt})" if event.attempt > 1 else ""


def _started(started: TrainingStarted) -> str:
    resumed = f", resumed after step {started.start_step:,}" if started.start_step else ""
    return (
        f"learning from {started.training_examples:,} examples, {started.validation_examples:,} "
        f"held out; {started.trainable_parameters:,} of {started.total_parameters:,} parameters "
        f"change; {started.total_steps:,} steps{resumed}"
    )


def _step(step: TrainingStep) -> str:
    return (
        f"step {step.step}/{step.total_steps}  loss {step.loss:.4f}  best {step.best_loss:.4f}  "
        f"epoch {step.epoch:.2f}  {step.tokens_per_second:,.0f} tokens/s  "
        f"ETA {duration(step.eta.ToSeconds())}"
    )


def _evaluation(evaluation: Evaluation) -> str:
    return (
        f"held-out loss {evaluation.loss:.4f} after step {evaluation.step}, "
        f"token accuracy {evaluation.token_accuracy:.1%}"
    )


def _checkpoint(checkpoint: Checkpoint) -> str:
    return f"checkpoint after step {checkpoint.step}, {size(checkpoint.size_bytes)}"


def _samples(samples: Samples) -> Iterator[str]:
    yield f"answers to held-out prompts after step {samples.step}:"
    for sample in samples.samples:
        yield f"  prompt  {one_line(sample.prompt)[-SAMPLE_CHARACTERS:]}"
        yield f"  wanted  {one_line(sample.expected)[:SAMPLE_CHARACTERS]}"
        yield f"  said    {one_line(sample.output)[:SAMPLE_CHARACTERS]}"


def _resumed(resumed: TrainingResumed) -> str:
    digest = resumed.restored_digest[:DIGEST_CHARACTERS]
    start, held = ("", "exactly") if resumed.exact else ("warning: ", "not")
    return (
        f"{start}goes on after step {resumed.step} with {held} what the checkpoint held "
        f"(sha256 {digest}…)"
    )


def _log(log: LogLine) -> str:
    level = LogLine.Level.Name(log.level).removeprefix("LEVEL_").lower()
    return log.message if log.level == LogLine.LEVEL_INFO else f"{level}: {log.message}"


def _ending(client: Client, job: TuningJob) -> str:
    short: Callable[[str], str] = client.names.short
    if job.state == TuningJob.STATE_SUCCEEDED and not job.model_version:
        return f"{short(job.name)} SUCCEEDED: a trial of {short(job.tuning_sweep)}"
    if job.state == TuningJob.STATE_SUCCEEDED:
        version = short(job.model_version)
        return f"{short(job.name)} SUCCEEDED: {version}\nnext: anneal chat {version}"
    cause = f": {job.error.message}" if job.error.message else ""
    return f"{short(job.name)} {state_word(job.state)}{cause}"
