"""The worker's loop, as its pipes see it."""

import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.inference.domain.generation import Sampling
from services.inference.worker import protocol
from services.inference.worker.loop import Worker
from services.inference.worker.model import ResidentModel

BASE_DIR = Path(__file__).parents[3] / "examples" / "tiny-base"
TURNS = (protocol.WireTurn(role="user", content="Hello"),)


@pytest.fixture(scope="module")
def model() -> ResidentModel:
    return ResidentModel(BASE_DIR)


def generate(number: int) -> protocol.Generate:
    return protocol.Generate(
        id=number, artifacts=None, turns=TURNS, sampling=Sampling(max_output_tokens=3)
    )


def answers(model: ResidentModel, requests: Iterator[protocol.Request]) -> list[protocol.Answer]:
    pipe = io.BytesIO()
    Worker(model, pipe).serve(request.to_line() for request in requests)
    return [protocol.read_answer(line) for line in pipe.getvalue().splitlines()]


def ends(said: list[protocol.Answer]) -> list[int]:
    return [answer.id for answer in said if isinstance(answer, protocol.End)]


def test_every_request_is_answered_in_turn(model: ResidentModel) -> None:
    said = answers(model, iter([generate(1), generate(2)]))

    assert said[0] == protocol.Ready()
    assert ends(said) == [1, 2]


def test_a_cancelled_request_gets_no_answer(model: ResidentModel) -> None:
    long = generate(1).model_copy(update={"sampling": Sampling(max_output_tokens=400)})
    said = answers(model, iter([long, generate(2), protocol.Cancel(id=2), protocol.Cancel(id=1)]))

    assert ends(said) == []


def test_a_cancel_of_what_nobody_asked_is_not_kept(model: ResidentModel) -> None:
    said = answers(model, iter([protocol.Cancel(id=1), generate(1)]))

    assert ends(said) == [1]
