"""The states of an experiment."""

from datetime import timedelta

import pytest

from services.abtest.domain.experiment import Experiment, Failure, State, advance

FAILURE = Failure(3, "PROMPT_TOO_LONG", "the prompt is too long")


def test_it_is_ready_when_the_last_prompt_is(experiment: Experiment) -> None:
    later = experiment.create_time + timedelta(seconds=5)

    nearly = experiment.with_ready(19, later)
    ready = experiment.with_ready(20, later)

    assert (nearly.state, nearly.update_time) == (State.GENERATING, experiment.create_time)
    assert (ready.state, ready.update_time) == (State.READY, later)


def test_a_failure_says_why(experiment: Experiment) -> None:
    failed = experiment.failed(FAILURE, experiment.create_time)

    assert (failed.state, failed.error) == (State.FAILED, FAILURE)


@pytest.mark.parametrize("end", [State.READY, State.FAILED])
def test_an_end_is_final(experiment: Experiment, end: State) -> None:
    ended = advance(experiment, end, experiment.create_time)

    for state in State:
        with pytest.raises(ValueError, match="cannot go from"):
            advance(ended, state, ended.create_time)
