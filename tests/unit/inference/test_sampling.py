"""Choosing tokens: each parameter does what its name says, and nothing else."""

from collections import Counter

import pytest
import torch
from pydantic import ValidationError

from services.inference.domain.generation import Sampling
from services.inference.worker.errors import OutputNotFinite
from services.inference.worker.sampling import TokenChooser

LOGITS = torch.tensor([2.0, 1.0, 0.5, -1.0])
NOTHING_SAID = torch.tensor([], dtype=torch.long)


def draws(sampling: Sampling, count: int = 400) -> Counter[int]:
    chooser = TokenChooser(sampling, NOTHING_SAID)
    return Counter(chooser.choose(LOGITS) for _ in range(count))


def test_temperature_zero_takes_the_likeliest() -> None:
    assert draws(Sampling(temperature=0)) == {0: 400}


def test_frequencies_follow_the_probabilities() -> None:
    counts = draws(Sampling(temperature=1, seed=1), count=4000)

    for token, probability in enumerate(LOGITS.softmax(-1).tolist()):
        assert counts[token] / 4000 == pytest.approx(probability, abs=0.03)


def test_top_k_leaves_only_so_many() -> None:
    assert set(draws(Sampling(temperature=2, top_k=2, seed=1))) == {0, 1}


def test_top_p_leaves_the_smallest_set_that_holds_the_share() -> None:
    shares = LOGITS.softmax(-1)
    just_two = float(shares[0] + shares[1]) - 0.01

    assert set(draws(Sampling(temperature=1, top_p=just_two, seed=1))) == {0, 1}


def test_top_p_always_leaves_one() -> None:
    assert set(draws(Sampling(temperature=2, top_p=1e-9, seed=1))) == {0}


def test_the_same_seed_chooses_the_same_tokens() -> None:
    def chosen() -> list[int]:
        chooser = TokenChooser(Sampling(temperature=1, seed=5), NOTHING_SAID)
        return [chooser.choose(LOGITS) for _ in range(50)]

    assert chosen() == chosen()


def test_what_was_said_is_said_less_often() -> None:
    chooser = TokenChooser(Sampling(repetition_penalty=2), torch.tensor([0]))

    assert chooser.choose(torch.tensor([1.5, 1.0, -3.0, -3.0])) == 1


def test_a_penalised_unlikely_token_becomes_less_likely() -> None:
    chooser = TokenChooser(Sampling(repetition_penalty=2), torch.tensor([0]))

    assert chooser.choose(torch.tensor([-1.0, -1.5])) == 1


def test_every_parameter_out_of_range_is_named_at_once() -> None:
    with pytest.raises(ValidationError) as caught:
        Sampling.model_validate(
            {"max_output_tokens": 0, "temperature": 3, "top_p": 0, "repetition_penalty": 0.5}
        )

    assert {error["loc"][0] for error in caught.value.errors()} == {
        "max_output_tokens",
        "temperature",
        "top_p",
        "repetition_penalty",
    }


def test_the_coldest_temperature_is_greedy() -> None:
    assert draws(Sampling(temperature=1e-300)) == {0: 400}


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_outputs_that_are_no_numbers_choose_nothing(temperature: float, broken: float) -> None:
    chooser = TokenChooser(Sampling(temperature=temperature), NOTHING_SAID)

    with pytest.raises(OutputNotFinite):
        chooser.choose(torch.tensor([1.0, broken, 0.0]))


def test_a_token_that_the_model_rules_out_is_never_chosen() -> None:
    chooser = TokenChooser(Sampling(temperature=2, seed=1), NOTHING_SAID)
    logits = torch.tensor([1.0, -torch.inf, 1.0])

    assert {chooser.choose(logits) for _ in range(100)} == {0, 2}
