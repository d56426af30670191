"""The held-out loss: of the whole set, without dropout, whatever the batches."""

from array import array
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from services.trainer.engine.batches import Layout, packed, padded, paired
from services.trainer.engine.errors import OutOfMemory
from services.trainer.engine.evaluation import Evaluation
from services.trainer.engine.evaluation import evaluate as evaluate_batches
from services.trainer.engine.examples import Example
from services.trainer.engine.fast import cross_entropy
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


class _Memory:
    """Of a machine that computes at most so many tokens at a time."""

    def __init__(self, network: torch.nn.Module, tokens: int) -> None:
        self.tokens, self.computed = tokens, []
        network.register_forward_pre_hook(self._take, with_kwargs=True)

    def _take(self, _network: object, _args: object, inputs: dict[str, torch.Tensor]) -> None:
        asked = inputs["input_ids"].numel()
        if asked > self.tokens:
            raise RuntimeError(f"DefaultCPUAllocator: can't allocate memory: {asked} tokens")
        self.computed.append(asked)


@pytest.mark.parametrize("layout", [padded, packed])
def test_where_memory_runs_out_parts_are_halved_and_the_result_is_the_same(
    model: TunableModel, examples: list[Example], layout: Layout
) -> None:
    batches = divided(examples, layout, CPU, Team(), limit=0)
    whole = evaluate_batches(model, batches, Team())
    memory = _Memory(model.network, tokens=100)

    halved = evaluate_batches(model, batches, Team())

    assert len(memory.computed) > 1
    assert halved.loss == pytest.approx(whole.loss, rel=1e-5)
    assert (halved.token_accuracy, halved.tokens) == (whole.token_accuracy, whole.tokens)


def test_a_single_example_that_is_too_much_says_so(
    model: TunableModel, examples: list[Example]
) -> None:
    _Memory(model.network, tokens=30)

    with pytest.raises(OutOfMemory, match="held-out example of 25 tokens"):
        evaluate(model, examples, batch_size=4)


def test_processes_in_step_leave_no_batch_for_another_try(
    model: TunableModel, examples: list[Example]
) -> None:
    """The others are in the middle of theirs, and would wait for ever."""
    batches = divided(examples, padded, CPU, Team(), limit=0)
    _Memory(model.network, tokens=100)

    with pytest.raises(RuntimeError, match="can't allocate memory"):
        evaluate_batches(model, batches, Team(in_step=True))


@pytest.mark.parametrize("layout", [padded, packed])
@pytest.mark.parametrize("count", [1, 5])
def test_processes_in_step_have_as_many_batches_as_each_other(
    model: TunableModel, examples: list[Example], layout: Layout, count: int
) -> None:
    shares = [
        divided(examples[:count], layout, CPU, Team(rank, 3, in_step=True), limit=30)
        for rank in range(3)
    ]
    whole = evaluate_batches(model, divided(examples[:count], layout, CPU, Team(), 0), Team())

    result = evaluate_batches(model, [batch for share in shares for batch in share], Team())

    assert len({len(share) for share in shares}) == 1
    assert result.loss == pytest.approx(whole.loss, rel=1e-5)
    assert (result.token_accuracy, result.tokens) == (whole.token_accuracy, whole.tokens)


def test_another_error_is_not_taken_for_too_little_memory(
    model: TunableModel, examples: list[Example]
) -> None:
    def break_down(*_: object) -> None:
        raise RuntimeError("broken")

    model.network.register_forward_pre_hook(break_down)
    with pytest.raises(RuntimeError, match="broken"):
        evaluate(model, examples, batch_size=4)


@pytest.mark.parametrize("layout", [padded, packed, paired(0)])
def test_halves_of_a_batch_hold_its_examples_in_their_order(layout: Layout) -> None:
    ids = [array("i", range(1, length)) for length in (4, 6, 9)]
    source = array("i", [7, 8] if layout not in (padded, packed) else [])
    examples = [Example(one, bytes([1] * len(one)), source) for one in ids]

    first, second = layout(examples, CPU).halves()

    assert first.examples == examples[:1]
    assert second.examples == examples[1:]
    assert first.halves() == ()
    whole = layout(examples, CPU)
    assert first.tokens + second.tokens == whole.tokens
    targets = [half.targets[: half.labels] for half in (first, second)]
    assert torch.cat(targets).equal(whole.targets[: whole.labels])


class _Softmaxes(TorchDispatchMode):
    """Notes of how many rows each softmax over the vocabulary is."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[int] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        made = func(*args, **(kwargs or {}))
        if "softmax" in str(func) and made.shape[-1] == 320:
            self.rows.append(made.shape[0])
        return made


def test_the_loss_is_computed_a_few_rows_at_a_time(
    model: TunableModel, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of all logits would take more memory than training, which keeps none."""
    wanted = evaluate(model, examples, batch_size=9)
    monkeypatch.setattr(cross_entropy, "_CPU_ELEMENTS", 4 * 320)

    with _Softmaxes() as softmaxes:
        found = evaluate(model, examples, batch_size=9)

    assert max(softmaxes.rows) == 4
    assert found.loss == pytest.approx(wanted.loss, rel=1e-6)
    assert found.token_accuracy == wanted.token_accuracy


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
