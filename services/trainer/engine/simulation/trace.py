"""Takes a job's largest steps with shadows, and tells what was held at the fullest moment."""

from collections.abc import Iterable, Set
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from services.trainer.engine.batches import Batch
from services.trainer.engine.checkpoint import Progress
from services.trainer.engine.evaluation import evaluate
from services.trainer.engine.job import Job
from services.trainer.engine.loader import Loader, divided
from services.trainer.engine.loop import held_out_batches
from services.trainer.engine.model import TunableModel, count_parameters, make_tunable
from services.trainer.engine.precision import compute_dtype
from services.trainer.engine.preparation import Preparation
from services.trainer.engine.simulation.demand import Place
from services.trainer.engine.simulation.heap import heap_peak
from services.trainer.engine.simulation.outline import fill, mark_quantised
from services.trainer.engine.simulation.products import Product, Shape
from services.trainer.engine.simulation.record import Record
from services.trainer.engine.simulation.rehearsal import make_run
from services.trainer.engine.simulation.shadow import Shadow
from services.trainer.engine.state import Run
from services.trainer.engine.step import take_step
from services.trainer.engine.team import Team

_COMMON_STEPS = 12
"""Steps as they come, for gaps between pieces of memory come from batches of different shapes."""
_SHAPED_STEPS = 2000
"""Steps of which the shapes are looked at."""


@dataclass(frozen=True, slots=True)
class Held:
    """Bytes by what they were for. `added` are the parameters that the method adds, `slack` what
    the allocator had taken and could not use."""

    weights: float
    added: float
    gradients: float
    moments: float
    activations: float
    slack: float


@dataclass(frozen=True, slots=True)
class Trace:
    """`loaded` is what was held before the first step, `fullest` the most in a step or an
    evaluation. A batch of `shape` takes `products`; `shapes` are those of all batches."""

    loaded: Held
    fullest: Held
    trainable_parameters: float
    total_parameters: float
    products: Set[Product]
    shape: Shape
    shapes: Set[Shape]


@dataclass(slots=True)
class _Kinds:
    """Numbers of allocations."""

    added: set[int] = field(default_factory=set[int])
    gradients: set[int] = field(default_factory=set[int])
    moments: set[int] = field(default_factory=set[int])


def trace(job: Job, ready: Preparation, base: Any, mapped: bool, places: list[Place]) -> Trace:
    """`base` is an outline, which is filled; `mapped` tells that its weights stay in their file.

    Raises InvalidJob where the method does not fit the model.
    """
    shadow, kinds = Shadow(), _Kinds()
    with shadow:
        fill(base, ready.device, mapped)
        dtype = compute_dtype(job, ready.device)
        model = make_tunable(base, job, dtype, ready.device, start=None)
        mark_quantised(model.network)
        begins = shadow.record.length
        if job.method.freezes_base:
            kinds.added = _numbers(shadow, model.trainable.values())
        _watch_gradients(shadow, model, kinds)
        run = _run(job, ready, model)
        products = _train(shadow, run, kinds, places)
    record = shadow.record
    fullest, slack = _fullest(record, begins, ready.device)
    return Trace(
        loaded=_held(record, begins - 1, kinds, begins, slack=0),
        fullest=_held(record, fullest, kinds, begins, slack),
        trainable_parameters=model.trainable_parameters,
        total_parameters=count_parameters(model.network),
        products=products,
        shape=_shapes(run, places[:1])[0],
        shapes=set(_shapes(run, _first_places(run, _SHAPED_STEPS))),
    )


class _SimulatedTeam(Team):
    """Its others do not exist; what talking to them takes in memory is taken."""

    def sum(self, values: Tensor) -> None:
        pass

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        if self.size == 1:
            return
        held = list(parameters)
        flat = torch.cat([torch.zeros_like(p).flatten() for p in held])
        for parameter, part in zip(held, flat.split([p.numel() for p in held]), strict=True):
            parameter.grad = part.view_as(parameter)


def _run(job: Job, ready: Preparation, model: TunableModel) -> Run:
    run = make_run(job, ready, model)
    run.team = _SimulatedTeam(0, job.processes)
    return run


def _train(shadow: Shadow, run: Run, kinds: _Kinds, places: list[Place]) -> Set[Product]:
    """Steps, an evaluation, and steps again; returns the products of the first place."""
    progress = Progress(
        micro_batch_tokens=run.job.training.micro_batch_tokens,
        recompute=run.job.training.gradient_checkpointing == "on",
    )
    if progress.recompute:
        run.model.recompute_activations()
    run.model.network.train()
    _take_steps(run, progress, places[:1])
    products = frozenset(shadow.products)
    _take_steps(run, progress, _first_places(run, _COMMON_STEPS))
    kinds.moments = _numbers(shadow, run.optimizer.state().values())
    if run.examples.validation:
        evaluate(run.model, _largest(held_out_batches(run, progress)), run.team)
        if run.job.training.early_stopping_patience:
            run.best = {name: p.clone() for name, p in run.model.trainable_tensors().items()}
            kinds.added |= _numbers(shadow, run.best.values())
    _take_steps(run, progress, places)
    return products


def _first_places(run: Run, count: int) -> list[Place]:
    return [(step, 0) for step in range(1, min(count, run.total_steps) + 1)]


def _shapes(run: Run, places: list[Place]) -> list[Shape]:
    limit = run.job.training.micro_batch_tokens
    shapes: list[Shape] = []
    for step, rank in places:
        examples = [run.examples.training[i] for i in run.plan.batch(step)]
        team = Team(rank, run.job.processes)
        for batch in divided(examples, run.layout, run.model.device, team, limit):
            rows, width = batch.inputs["input_ids"].shape
            shapes.append(Shape(rows, width, len(batch.targets)))
    return shapes


def _take_steps(run: Run, progress: Progress, places: list[Place]) -> None:
    rate = run.job.training.learning_rate
    for step, rank in places:
        team = Team(rank, run.job.processes)
        with Loader(run.examples.training, run.plan, run.layout, run.model.device, team) as loader:
            take_step(run, loader, replace(progress, step=step - 1), rate)


def _largest(batches: list[Batch]) -> list[Batch]:
    """Those with the most tokens and with the most labels."""
    by_tokens = max(batches, key=lambda batch: batch.inputs["input_ids"].numel())
    by_labels = max(batches, key=lambda batch: len(batch.targets))
    return [by_tokens] if by_tokens is by_labels else [by_tokens, by_labels]


def _numbers(shadow: Shadow, tensors: Iterable[Tensor]) -> set[int]:
    noticed = (shadow.notice(tensor) for tensor in tensors)
    return {number for number in noticed if number is not None}


def _watch_gradients(shadow: Shadow, model: TunableModel, kinds: _Kinds) -> None:
    def note(parameter: Tensor) -> None:
        if parameter.grad is not None:
            kinds.gradients |= _numbers(shadow, [parameter.grad])

    for parameter in model.trainable.values():
        parameter.register_post_accumulate_grad_hook(note)


def _fullest(record: Record, begins: int, device: torch.device) -> tuple[int, int]:
    """The place in the record, from `begins` on, at which most memory was taken, and what of it
    was of no use."""
    events = list(record.events(begins, record.length))
    if device.type == "cpu":
        first = events[0][0]
        peak = heap_peak(
            f"+{record.allocations[number].size_bytes}" if is_birth else f"-{number - first}"
            for number, is_birth in events
        )
        if peak is not None:
            place = record.allocations[events[peak.place][0]].born
            return place, peak.taken_bytes - record.alive_bytes(begins, place)
    place = record.fullest(begins)
    return place, 0


def _held(record: Record, place: int, kinds: _Kinds, begins: int, slack: int) -> Held:
    """Of what is alive at `place`; what was so before `begins` and is none of the kinds are
    weights."""
    kept = ("weights", "added", "gradients", "moments", "activations")
    held: dict[str, int] = dict.fromkeys(kept, 0)
    for number, allocation in enumerate(record.allocations):
        if allocation.is_alive_at(place):
            held[_kind(number, allocation.born < begins, kinds)] += allocation.size_bytes
    return Held(**held, slack=slack)


def _kind(number: int, is_early: bool, kinds: _Kinds) -> str:
    if number in kinds.added:
        return "added"
    if number in kinds.gradients:
        return "gradients"
    if number in kinds.moments:
        return "moments"
    return "weights" if is_early else "activations"
