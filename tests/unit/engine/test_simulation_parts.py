"""What a simulation is made of: tensors without contents, the record of them, the allocator."""

import platform
from array import array
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as functional
from torch import nn

from services.trainer.engine.examples import Example, Examples
from services.trainer.engine.job import Job
from services.trainer.engine.plan import Plan
from services.trainer.engine.preparation import Preparation, prepare
from services.trainer.engine.simulation.demand import largest_places, trained_tokens
from services.trainer.engine.simulation.heap import heap_peak
from services.trainer.engine.simulation.record import Record
from services.trainer.engine.simulation.shadow import Shadow

MakeJob = Callable[..., Job]
MIB = 2**20

needs_glibc = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc",
    reason="replays GNU's allocator; with another one no gaps are counted (docs/memory.md)",
)


def alive(record: Record) -> int:
    return record.alive_bytes(0, record.length - 1)


def most(record: Record) -> int:
    return record.alive_bytes(0, record.fullest(0))


def test_what_is_alive_is_counted_and_nothing_of_it_exists() -> None:
    with Shadow() as shadow:
        weight = torch.empty(2**20, 2**20)  # four terabytes
        row = torch.ones(1, 2**20)
        product = row @ weight
        assert alive(shadow.record) == 4 * (2**40 + 2**20 + 2**20)
        del weight
        assert alive(shadow.record) == 4 * 2**21
        assert product.shape == (1, 2**20)
    assert most(shadow.record) == 4 * (2**40 + 2**21)


def test_views_take_nothing_and_keep_what_they_look_at() -> None:
    with Shadow() as shadow:
        whole = torch.empty(1000)
        part = whole[10:20].view(2, 5).t()
        assert alive(shadow.record) == 4000
        del whole
        assert alive(shadow.record) == 4000
        del part
        assert alive(shadow.record) == 0


def test_a_backward_pass_leaves_the_gradients_of_what_is_trained() -> None:
    with Shadow() as shadow:
        network = nn.Sequential(nn.Linear(100, 200), nn.ReLU(), nn.Linear(200, 100))
        network[0].requires_grad_(False)
        weights = alive(shadow.record)
        network(torch.empty(50, 100)).sum().backward()
        frozen, trained = (sum(p.numel() * 4 for p in part.parameters()) for part in network[::2])
        assert weights == frozen + trained
        assert alive(shadow.record) == weights + trained
    assert most(shadow.record) > weights + trained


def test_ids_and_masks_keep_their_values() -> None:
    with Shadow():
        ids = torch.tensor([3, 1, 2])
        mask = ids.unsqueeze(0) > torch.arange(3).unsqueeze(1)
        assert mask.tolist() == [[True, True, True], [True, False, True], [True, False, False]]
        embedded = functional.embedding(ids, torch.empty(5, 64))
        assert embedded.shape == (3, 64)


def test_a_number_read_from_nothing_is_one() -> None:
    with Shadow():
        values = torch.empty(100)
        assert values.sum().item() == 1
        assert bool((values > 0).any())


def test_the_record_tells_where_most_was_alive() -> None:
    record = Record()
    first = record.begin(10)
    second = record.begin(5)
    record.end(first)
    record.begin(7)
    assert record.fullest(0) == 1
    assert record.alive_bytes(0, 1) == 15
    assert record.alive_bytes(1, 1) == 5
    assert record.fullest(2) == 3
    record.end(second)
    assert list(record.events(1, 4)) == [(second, True), (2, True)]
    assert alive(record) == 7


@needs_glibc
def test_the_allocator_takes_about_what_is_asked_for() -> None:
    peak = heap_peak([f"+{64 * MIB}", "-0", f"+{65 * MIB}", "-1"])
    assert peak is not None
    assert peak.place == 2
    assert 65 * MIB <= peak.taken_bytes < 66 * MIB


@needs_glibc
def test_gaps_that_nothing_fits_into_are_taken_all_the_same() -> None:
    small = [f"+{50_000}" for _ in range(2000)]
    holes = [f"-{number}" for number in range(0, 2000, 2)]
    larger = [f"+{60_000}" for _ in range(1000)]
    peak = heap_peak([*small, *holes, *larger])
    assert peak is not None
    assert peak.taken_bytes > 1.4 * (1000 * 50_000 + 1000 * 60_000) * 0.99


@needs_glibc
def test_of_places_with_as_much_taken_the_one_with_most_in_use_counts() -> None:
    small = [f"+{50_000}" for _ in range(20)]
    holes = [f"-{number}" for number in range(0, 20, 2)]
    larger = [f"+{60_000}" for _ in range(10)]
    into_the_holes = [f"+{49_000}" for _ in range(5)]
    events = [*small, *holes, *larger, *into_the_holes]
    peak = heap_peak(events)
    assert peak is not None
    assert peak.place == len(events) - 1


@needs_glibc
def test_more_than_can_be_handed_out_is_nothing() -> None:
    assert heap_peak([f"+{2**62}"]) is None


def ready_with(job: Job, lengths: list[int], labels: list[int]) -> Preparation:
    """Examples of these lengths, of which so many tokens at the end are labeled."""
    examples = tuple(
        Example(array("i", range(n)), bytes(n - labeled) + bytes([1]) * labeled)
        for n, labeled in zip(lengths, labels, strict=True)
    )
    ready = prepare(job)
    plan = Plan(tuple(lengths), job.seed, job.training.batch_size)
    return Preparation(
        device=ready.device,
        precision=ready.precision,
        max_tokens=1000,
        encoder=ready.encoder,
        examples=Examples(examples, (), 0, 0, 0, ""),
        plan=plan,
        total_steps=plan.total_steps(job.training.max_steps, job.training.epochs),
    )


def test_the_steps_of_most_tokens_and_of_most_labels_are_found(make_job: MakeJob) -> None:
    job = make_job({"batch_size": 1, "max_steps": 0, "epochs": 2.0})
    ready = ready_with(job, [10, 90, 80, 20], [5, 5, 70, 5])
    batches = [ready.plan.batch(step) for step, _ in largest_places(job, ready)]
    assert sorted(batches) == [(1,), (2,)]


def test_what_is_never_reached_is_not_the_largest(make_job: MakeJob) -> None:
    job = make_job({"batch_size": 1, "max_steps": 2})
    ready = ready_with(job, list(range(10, 100)), [5] * 90)
    assert all(step <= 2 for step, _ in largest_places(job, ready))


def test_tokens_are_counted_over_whole_and_broken_epochs(make_job: MakeJob) -> None:
    job = make_job({"batch_size": 3, "max_steps": 7})
    ready = ready_with(job, [10, 20, 30, 40, 50, 60, 70], [1] * 7)
    steps = (ready.plan.batch(step) for step in range(1, 8))
    assert trained_tokens(ready) == sum(ready.plan.lengths[i] for batch in steps for i in batch)
