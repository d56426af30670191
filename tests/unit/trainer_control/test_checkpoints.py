"""Which checkpoints of a job stay."""

from hypothesis import given
from hypothesis import strategies as st

from services.trainer.control.domain.checkpoints import Checkpoint, Checkpoints, is_news, staying
from services.trainer.control.domain.settings import TrainingParameters


def checkpoint(step: int, loss: float | None = None, attempt: int = 1) -> Checkpoint:
    return Checkpoint(attempt, step, "ab" * 32, 7, loss)


def kept(checkpoints: Checkpoints, last: int = 1, every: int = 0) -> list[int]:
    training = TrainingParameters(keep_last_checkpoints=last, keep_checkpoint_every=every)
    return [one.step for one in staying(checkpoints, training)]


def test_the_last_ones_stay() -> None:
    five = tuple(checkpoint(step) for step in (10, 20, 30, 40, 50))
    assert kept(five, last=2) == [40, 50]
    assert kept(five, last=9) == [10, 20, 30, 40, 50]


def test_the_one_of_the_lowest_held_out_loss_stays_and_of_several_the_first() -> None:
    losses = {10: 0.9, 20: 0.5, 25: None, 30: 0.5, 40: 0.7}
    assert kept(tuple(checkpoint(step, loss) for step, loss in losses.items())) == [20, 40]


def test_those_of_certain_steps_stay() -> None:
    assert kept(tuple(checkpoint(step) for step in range(5, 50, 5)), every=20) == [20, 40, 45]


def test_what_a_later_attempt_stored_is_newer_whatever_step_the_earlier_had_come_to() -> None:
    assert kept((checkpoint(400), checkpoint(50, attempt=2))) == [50]


def test_what_comes_late_or_again_is_no_news() -> None:
    known = (checkpoint(400), checkpoint(50, attempt=2))
    assert not is_news(known, checkpoint(50, attempt=2))
    assert not is_news(known, checkpoint(40, attempt=2))
    assert is_news(known, checkpoint(60, attempt=2))
    assert is_news(known, checkpoint(50, attempt=3))


@given(
    st.lists(st.none() | st.floats(allow_nan=False), min_size=1),
    st.integers(1, 5),
    st.integers(0, 4),
)
def test_the_newest_always_stays_and_a_second_look_drops_nothing(
    losses: list[float | None], last: int, every: int
) -> None:
    training = TrainingParameters(keep_last_checkpoints=last, keep_checkpoint_every=every)
    all_of = tuple(checkpoint(step, loss) for step, loss in enumerate(losses))
    stay = staying(all_of, training)
    assert stay[-1] == all_of[-1]
    assert len(stay) >= min(last, len(all_of))
    assert staying(stay, training) == stay
