"""The order of training: complete, bounded, and a function of seed and step alone."""

from hypothesis import given
from hypothesis import strategies as st

from services.trainer.engine.plan import Plan, shuffled

lengths = st.lists(st.integers(2, 400), min_size=1, max_size=300).map(tuple)
seeds = st.integers(0, 2**63 - 1)
sizes = st.integers(1, 20)


@given(lengths, seeds, sizes, st.integers(0, 3))
def test_each_epoch_holds_every_example_once(
    lengths: tuple[int, ...], seed: int, size: int, epoch: int
) -> None:
    plan = Plan(lengths, seed, size)
    per_epoch = -(-len(lengths) // size)
    first = epoch * per_epoch + 1
    batches = [plan.batch(step) for step in range(first, first + per_epoch)]
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(1 <= len(batch) <= size for batch in batches)


@given(lengths, seeds, sizes, st.data())
def test_a_step_does_not_depend_on_the_steps_asked_before(
    lengths: tuple[int, ...], seed: int, size: int, data: st.DataObject
) -> None:
    steps = list(range(1, 3 * -(-len(lengths) // size) + 1))
    forward = Plan(lengths, seed, size)
    undisturbed = {step: forward.batch(step) for step in steps}
    wandering = Plan(lengths, seed, size)
    for step in data.draw(st.permutations(steps[:40])):
        assert wandering.batch(step) == undisturbed[step]


def test_the_order_changes_with_the_epoch_and_the_seed() -> None:
    lengths = tuple(range(10, 110))
    plan, other = Plan(lengths, 1, 10), Plan(lengths, 2, 10)
    epochs = [[plan.batch(step) for step in range(first, first + 10)] for first in (1, 11)]
    assert epochs[0] != epochs[1]
    assert [other.batch(step) for step in range(1, 11)] != epochs[0]
    assert plan.digest != other.digest
    assert plan.digest == Plan(lengths, 1, 10).digest


def test_the_order_is_the_same_on_every_machine_and_version() -> None:
    assert shuffled(8, 7, "epoch", 0) == [5, 3, 6, 2, 0, 7, 4, 1]


def test_batches_hold_examples_of_like_length() -> None:
    lengths = tuple(20 + (i * 37) % 380 for i in range(400))
    plan = Plan(lengths, 0, 8)
    batches = [[lengths[i] for i in plan.batch(step)] for step in range(1, 51)]
    padded = sum(max(batch) * len(batch) for batch in batches)
    assert sum(lengths) / padded > 0.9


def test_batches_hold_examples_as_they_come_if_that_is_wanted() -> None:
    lengths = tuple(20 + (i * 37) % 380 for i in range(400))
    grouped, plain = (Plan(lengths, 0, 8, group_by_length=by_length) for by_length in (True, False))
    batches = [[lengths[i] for i in plain.batch(step)] for step in range(1, 51)]
    assert sum(lengths) / sum(max(batch) * len(batch) for batch in batches) < 0.7
    assert all(batch == sorted(batch) for batch in batches)
    assert sorted(length for batch in batches for length in batch) == sorted(lengths)
    assert plain.digest != grouped.digest


def test_total_steps_come_from_epochs_only_if_no_number_is_given() -> None:
    plan = Plan((5,) * 10, 0, 4)
    assert plan.total_steps(max_steps=7, epochs=100.0) == 7
    assert plan.total_steps(max_steps=0, epochs=2.5) == 8
    assert plan.total_steps(max_steps=0, epochs=0.01) == 1
    assert plan.epochs_done(3) == 1.0


@given(lengths, seeds, st.integers(1, 2000), st.integers(1, 3))
def test_batches_of_tokens_hold_every_example_once_and_no_more_than_they_may(
    lengths: tuple[int, ...], seed: int, budget: int, epochs: int
) -> None:
    plan = Plan(lengths, seed, 1, batch_tokens=budget)
    last = plan.total_steps(max_steps=0, epochs=epochs)
    batches = [plan.batch(step) for step in range(1, last + 1)]
    assert sorted(i for batch in batches for i in batch) == sorted([*range(len(lengths))] * epochs)
    for batch in batches:
        padded = max(lengths[i] for i in batch) * len(batch)
        assert padded <= budget or len(batch) == 1
    assert plan.epochs_done(last) == epochs
