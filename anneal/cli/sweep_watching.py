"""How a sweep is watched: a live table for people, lines for pipes, JSON lines for programs."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from anneal.cli.printing import Format, is_terminal, print_json_line
from anneal.cli.watching import state_word
from anneal.client import Client
from anneal.job_watching import FINAL_STATES
from anneal.names import last_part
from anneal.sweeps import winning_trial
from anneal.trainer.v1.tuning_sweep_pb2 import Trial, TuningSweep

HEADINGS = ("RUNG", "TRIAL", "LEARNING RATE", "RANK", "STEPS", "STATE", "HELD-OUT")
WON = "WON"

Short = Callable[[str], str]


class View(Protocol):
    """Shows a sweep each time that it has changed."""

    def show(self, sweep: TuningSweep) -> None: ...


def watch_sweep(client: Client, sweep: str, output: Format) -> TuningSweep:
    """Shows a sweep until it has ended, and returns it.

    Ctrl-C says how to go on and is passed on.
    """
    name = last_part(sweep)
    ended = TuningSweep()
    try:
        with _view(client, output) as view:
            for ended in client.sweeps.watch(sweep):
                view.show(ended)
    except KeyboardInterrupt:
        if output is Format.TEXT:
            print(f"\nthe sweep goes on; see it again with: anneal sweep watch {name}")
        raise
    if output is Format.TEXT:
        print(_ending(client.names.short, ended))
    return ended


def _view(client: Client, output: Format) -> AbstractContextManager[View]:
    if output is Format.JSON:
        return nullcontext(JsonLines())
    short = client.names.short
    return LiveTable(short) if is_terminal() else nullcontext(PlainLines(short))


class JsonLines:
    """The sweep a line, after each change."""

    def show(self, sweep: TuningSweep) -> None:
        print_json_line(sweep)


class PlainLines:
    """A line for each rung that begins and for each trial that ends."""

    def __init__(self, short: Short) -> None:
        self._short = short
        self._rungs = 0
        self._ended: set[str] = set()

    def show(self, sweep: TuningSweep) -> None:
        for trial in sweep.trials:
            if trial.rung > self._rungs:
                self._rungs = trial.rung
                count = sum(one.rung == trial.rung for one in sweep.trials)
                trials = "1 trial" if count == 1 else f"{count} trials"
                print(f"rung {trial.rung}: {trials} of {trial.steps:,} steps", flush=True)
            if trial.state in FINAL_STATES and trial.tuning_job not in self._ended:
                self._ended.add(trial.tuning_job)
                print(_trial_line(trial, self._short), flush=True)


class LiveTable:
    """All trials by rung, with where they stand."""

    def __init__(self, short: Short, console: Console | None = None) -> None:
        self._short = short
        self._live = Live(_table(TuningSweep(), short), console=console)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, sweep: TuningSweep) -> None:
        self._live.update(_table(sweep, self._short), refresh=True)


def sweep_state_word(state: TuningSweep.State.ValueType) -> str:
    """Returns `RUNNING` for STATE_RUNNING, and so on."""
    return TuningSweep.State.Name(state).removeprefix("STATE_")


def settings_of(trial: Trial) -> str:
    """Returns what a trial tries, in words."""
    rank = f", rank {trial.rank}" if trial.rank else ""
    return f"learning rate {trial.learning_rate:g}{rank}"


def trial_lines(sweep: TuningSweep, short: Short) -> Iterator[str]:
    """Yields a line for each trial."""
    return (f"rung {trial.rung}  {_trial_line(trial, short)}" for trial in sweep.trials)


def _trial_line(trial: Trial, short: Short) -> str:
    loss = f", held-out loss {_loss(trial)}" if _loss(trial) else ""
    return f"{short(trial.tuning_job)}  {settings_of(trial)}: {state_word(trial.state)}{loss}"


def _table(sweep: TuningSweep, short: Short) -> Table:
    table = Table(*HEADINGS, box=SIMPLE_HEAD, pad_edge=False)
    rung = 0
    for trial in sweep.trials:
        if trial.rung > rung > 0:
            table.add_section()
        rung = trial.rung
        won = trial.tuning_job == sweep.winner
        cells = (
            str(trial.rung),
            short(trial.tuning_job),
            f"{trial.learning_rate:g}",
            str(trial.rank or ""),
            f"{trial.steps:,}",
            WON if won else state_word(trial.state),
            _loss(trial),
        )
        table.add_row(*map(Text, cells))
    return table


def _loss(trial: Trial) -> str:
    return f"{trial.validation_loss:.4f}" if trial.HasField("validation_loss") else ""


def _ending(short: Short, sweep: TuningSweep) -> str:
    won = winning_trial(sweep)
    if won is not None:
        version = short(sweep.model_version)
        return (
            f"{short(sweep.name)} SUCCEEDED: {version}, {settings_of(won)}\n"
            f"next: anneal chat {version}"
        )
    cause = f": {sweep.error.message}" if sweep.error.message else ""
    return f"{short(sweep.name)} {sweep_state_word(sweep.state)}{cause}"
