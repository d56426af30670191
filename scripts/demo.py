"""`make demo`: from labeled examples to a model that wins a blind test, through real services.

Exit code 0 only if the tuned model is proven better.
"""

import json
import shutil
import sys
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
)
from rich.table import Column, Table

from anneal import AnnealError, Client, Platform
from anneal.abtest.v1.experiment_pb2 import ExperimentReport, Pair, Vote
from anneal.registry.v1.model_pb2 import ModelVersion
from anneal.trainer.v1.tuning_job_pb2 import (
    LoraMethod,
    TrainingParameters,
    TuningJob,
    TuningJobEvent,
)
from anneal.up.failures import PlatformError

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples" / "support.jsonl"
HELD_OUT = ROOT / "examples" / "support_heldout.jsonl"
DATA_DIR = ROOT / "build" / "demo"
BASE, MODEL, ALIAS, VOTER = "tiny-base", "support", "champion", "scripted-judge"

METHOD = LoraMethod(rank=8, alpha=16, dropout=0.1)
TRAINING = TrainingParameters(
    max_steps=400,
    batch_size=16,
    learning_rate=5e-3,
    warmup_steps=20,
    max_gradient_norm=0.1,
    evaluate_every=50,
    checkpoint_every=100,
    max_sequence_tokens=128,
)
SEED = 7
MAX_OUTPUT_TOKENS = 48

USABLE = 0.6
"""An answer less like the reference than this (0 to 1) helps no customer."""
NOTICEABLE = 0.05
"""Answers whose likeness differs by less are equally good to the judge."""


@dataclass(frozen=True)
class HeldOut:
    """A customer's sentence and the desk's reference answer, neither ever trained on."""

    question: str
    reference: str


@dataclass
class Quality:
    """How a model does on the held-out examples: summed loss in nats, labeled tokens, hits."""

    loss_sum: float = 0.0
    tokens: int = 0
    exact: list[bool] = field(default_factory=list[bool])

    @property
    def loss(self) -> float:
        return self.loss_sum / self.tokens

    @property
    def exact_match(self) -> float:
        return sum(self.exact) / len(self.exact)


def main() -> int:
    console = Console()
    began = time.monotonic()
    shutil.rmtree(DATA_DIR, ignore_errors=True)
    try:
        with Platform(DATA_DIR, ephemeral=True) as platform, Client(platform.addresses) as client:
            console.print(f"[green]✓[/] services up in {time.monotonic() - began:.0f} s")
            with bars(console) as progress:
                version = tune(client, progress)
                held_out = list(read_held_out())
                qualities = {
                    name: score(client, progress, name, held_out) for name in (BASE, version.name)
                }
                report = judge(client, progress, version, held_out, qualities)
    except (AnnealError, PlatformError) as error:
        console.print(f"[red]✗[/] {error}")
        return 1
    print_result(console, report, qualities[BASE], qualities[version.name])
    won = report.verdict == ExperimentReport.VERDICT_CANDIDATE_BETTER
    outcome = "[bold green]The tuned model won" if won else "[bold red]The tuned model did not win"
    console.print(f"{outcome}[/] in {time.monotonic() - began:.0f} s.\n")
    print_commands(console)
    return 0 if won else 1


def tune(client: Client, progress: Progress) -> ModelVersion:
    """Uploads, trains, waits for the registry, and sets the alias."""
    upload = progress.add_task("upload", total=EXAMPLES.stat().st_size, note="")
    version = client.datasets.upload(
        EXAMPLES, MODEL, on_progress=lambda sent, total: progress.update(upload, completed=sent)
    )
    progress.update(upload, note=f"{version.example_count} examples")
    job = client.jobs.create(version.name, BASE, method=METHOD, training=TRAINING, seed=SEED)
    training = progress.add_task("train", total=None, note="waits for the engine")
    ended = client.jobs.wait(job.name, on_event=lambda event: show_event(progress, training, event))
    if ended.state != TuningJob.STATE_SUCCEEDED:
        raise SystemExit(
            f"the job ended {TuningJob.State.Name(ended.state)}: {ended.error.message}"
        )
    registered = client.models.wait_for_version(ended.model_version)
    client.models.set_alias(MODEL, ALIAS, registered.name)
    return registered


def show_event(progress: Progress, task: TaskID, event: TuningJobEvent) -> None:
    if event.HasField("step"):
        step = event.step
        note = (
            f"loss {step.loss:.3f}  {step.tokens_per_second:,.0f} tok/s  "
            f"{step.eta.ToSeconds()} s left"
        )
        progress.update(task, total=step.total_steps, completed=step.step, note=note)
    if event.HasField("evaluation"):
        progress.console.print(
            f"  step {event.evaluation.step:>4}: held-out split loss {event.evaluation.loss:.3f}, "
            f"token accuracy {event.evaluation.token_accuracy:.0%}"
        )


def read_held_out() -> Iterator[HeldOut]:
    for line in HELD_OUT.read_text().splitlines():
        turns = json.loads(line)["messages"]
        yield HeldOut(turns[-2]["content"], turns[-1]["content"])


def score(client: Client, progress: Progress, model: str, held_out: Sequence[HeldOut]) -> Quality:
    """The held-out loss of a model."""
    quality = Quality()
    task = progress.add_task("score", total=len(held_out), note=model.rsplit("/", 1)[-1])
    for one in held_out:
        turns = (
            {"role": "user", "content": one.question},
            {"role": "assistant", "content": one.reference},
        )
        scored = client.inference.score(model, turns)
        quality.loss_sum += scored.loss_sum
        quality.tokens += scored.token_count
        progress.advance(task)
    return quality


def judge(
    client: Client,
    progress: Progress,
    version: ModelVersion,
    held_out: Sequence[HeldOut],
    qualities: Mapping[str, Quality],
) -> ExperimentReport:
    """Has a judge that knows the references, and not which model is which, vote on every pair."""
    references = {one.question: one.reference for one in held_out}
    experiment = client.experiments.create(
        BASE,
        f"{MODEL}@{ALIAS}",
        [one.question for one in held_out],
        max_output_tokens=MAX_OUTPUT_TOKENS,
    )
    task = progress.add_task("judge blind", total=len(held_out), note="")
    while (pair := client.experiments.next_pair(experiment.name, VOTER)) is not None:
        reference = references[pair.messages[-1].content]
        vote = client.experiments.vote(pair.name, VOTER, choose(pair, reference))
        for model, text in ((vote.left_model, pair.left_text), (vote.right_model, pair.right_text)):
            key = version.name if model == version.name else BASE
            qualities[key].exact.append(text.strip() == reference)
        progress.advance(task)
    return client.experiments.report(experiment.name)


def choose(pair: Pair, reference: str) -> Vote.Choice.ValueType:
    left, right = likeness(pair.left_text, reference), likeness(pair.right_text, reference)
    if max(left, right) < USABLE:
        return Vote.CHOICE_BOTH_BAD
    if abs(left - right) < NOTICEABLE:
        return Vote.CHOICE_TIE
    return Vote.CHOICE_LEFT if left > right else Vote.CHOICE_RIGHT


def likeness(answer: str, reference: str) -> float:
    """1 for the reference itself, towards 0 for a text that has nothing of it."""
    return SequenceMatcher(None, answer.strip(), reference, autojunk=False).ratio()


@contextmanager
def bars(console: Console) -> Generator[Progress]:
    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(bar_width=14),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[note]}", table_column=Column(no_wrap=True)),
    )
    with Progress(*columns, console=console) as progress:
        yield progress


def print_result(console: Console, report: ExperimentReport, base: Quality, tuned: Quality) -> None:
    table = Table(title=f"{len(base.exact)} held-out prompts", title_justify="left")
    for heading in ("", BASE, f"{MODEL}@{ALIAS}"):
        table.add_column(heading, justify="left" if not heading else "right")
    table.add_row("loss (nats a token)", f"{base.loss:.3f}", f"{tuned.loss:.3f}")
    table.add_row("exact match", f"{base.exact_match:.1%}", f"{tuned.exact_match:.1%}")
    table.add_row("blind wins", str(report.losses), str(report.wins))
    table.add_row("ties / both bad", "", f"{report.ties} / {report.both_bad}")
    interval = report.interval
    table.add_row(
        f"win rate ({interval.confidence:.0%} interval)",
        "",
        f"{report.win_rate:.1%} ({interval.lower:.1%} to {interval.upper:.1%})",
    )
    console.print(table)


def print_commands(console: Console) -> None:
    data_dir = DATA_DIR.relative_to(ROOT)
    console.print("To go on with what was made here:")
    for command in (
        f"anneal up --data-dir {data_dir}",
        f"anneal chat {MODEL}@{ALIAS}",
        f"anneal model show {MODEL}@{ALIAS}",
        "anneal job list",
    ):
        console.print(f"  .venv/bin/{command}", highlight=False)


if __name__ == "__main__":
    sys.exit(main())
