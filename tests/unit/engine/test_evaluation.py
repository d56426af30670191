"""The held-out loss: of the whole set, without dropout, whatever the batches."""

from array import array
from collections.abc import Callable

import pytest
import torch

from services.trainer.engine.batches import padded
from services.trainer.engine.evaluation import Evaluation
from services.trainer.engine.evaluation import evaluate as evaluate_batches
from services.trainer.engine.examples import Example
from services.trainer.engine.job import Job
from services.trainer.engine.loader import divided
from services.trainer.engine.methods import Lora
from services.trainer.engine.model import TunableModel, load_tunable_model
from services.trainer.engine.team import Team

CPU = torch.device("cpu")


def evaluate(model: TunableModel, examples: list[Example], batch_size: int) -> Evaluation:
    limit = batch_size * max(map(len, examples))
    batches = divided(sorted(examples, key=len), padded, CPU, Team(), limit)
    return evaluate_batches(model, batches, Team())


@pytest.fixture
def model(make_job: Callable[..., Job]) -> TunableModel:
    """A model whose adapter has an effect, and whose dropout would show."""
    job = make_job(method=Lora(rank=4, alpha=8.0, dropout=0.5, target_modules=()))
    loaded = load_tunable_model(job, torch.float32, CPU)
    torch.manual_seed(3)
    loaded.set_trainable_tensors(
        {name: torch.randn_like(value) for name, value in loaded.trainable_tensors().items()}
    )
    loaded.network.train()
    return loaded


@pytest.fixture
def examples() -> list[Example]:
    """Nine, of 5 to 37 tokens, all but the first three labeled."""
    generator = torch.Generator().manual_seed(1)
    made: list[Example] = []
    for length in range(5, 41, 4):
        ids = torch.randint(0, 320, (length,), generator=generator).tolist()
        made.append(Example(array("i", ids), bytes([0] * 3 + [1] * (length - 3))))
    return made


def test_evaluation_draws_nothing_at_random(model: TunableModel, examples: list[Example]) -> None:
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        results.append(evaluate(model, examples, batch_size=4))
        assert torch.equal(torch.get_rng_state(), before)
    assert results[0] == results[1]
    assert model.network.training


def test_the_loss_is_per_token_of_the_whole_set(
    model: TunableModel, examples: list[Example]
) -> None:
    together = evaluate(model, examples, batch_size=9)
    alone = [evaluate(model, [example], batch_size=1) for example in examples]
    labels = [len(example) - 3 for example in examples]
    mean = sum(r.loss * n for r, n in zip(alone, labels, strict=True)) / sum(labels)
    hits = sum(r.token_accuracy * n for r, n in zip(alone, labels, strict=True))
    assert together.loss == pytest.approx(mean, rel=1e-5)
    assert together.token_accuracy == pytest.approx(hits / sum(labels))
    assert together.tokens == sum(map(len, examples))


def test_a_model_that_answers_right_is_fully_accurate(
    model: TunableModel, examples: list[Example]
) -> None:
    """Labels set to the model's own first choices."""
    example = examples[-1]
    model.network.eval()
    with torch.no_grad():
        logits = model.network(input_ids=torch.tensor([example.token_ids.tolist()])).logits
    choice = int(logits[0, -2].argmax())
    answered = array("i", [*example.token_ids[:-1], choice])
    only_last = Example(answered, bytes([0] * (len(answered) - 1) + [1]))
    assert evaluate(model, [only_last], batch_size=1).token_accuracy == 1.0
