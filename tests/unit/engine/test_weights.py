"""Weighted messages: the loss of a step is Σ w·ℓ / Σ w over its labels, however it is computed."""

from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from torch.nn import functional
from transformers import LlamaForCausalLM

from services.chat.conversation import Conversation, Message, Role
from services.chat.encoder import ChatEncoder
from services.chat.pairs import PairEncoder
from services.dataset.domain.canonical import CanonicalWriter
from services.trainer.engine.batches import Layout, packed, padded, paired
from services.trainer.engine.errors import InvalidData
from services.trainer.engine.evaluation import evaluate
from services.trainer.engine.events import Evaluated, Event, StepDone
from services.trainer.engine.examples import Example, Examples, load_examples
from services.trainer.engine.fast import summed_cross_entropy
from services.trainer.engine.job import Job
from services.trainer.engine.loader import count_labels, divided, label_weight
from services.trainer.engine.loss import label_logits, summed_loss
from services.trainer.engine.methods import Full, Lora
from services.trainer.engine.model import load_tunable_model
from services.trainer.engine.preparation import prepare
from services.trainer.engine.team import Team
from tests.unit.engine.families import t5

CPU = torch.device("cpu")
MakeJob = Callable[..., Job]
RunHere = Callable[[Job], list[Event]]
Write = Callable[[Sequence[Conversation]], Path]

DRY = Lora(rank=4, alpha=8.0, dropout=0.0)
CUTS: dict[str, dict[str, Any]] = {
    "whole": {},
    "parts": {"micro_batch_tokens": 60},
    "packed": {"packing": True},
}
WEIGHTS = (0.5, 1.0, 3.0, 0.001, 20.0)


def asked(question: str, answer: str = "Yes.", weight: float = 1.0) -> Conversation:
    answered = Message(Role.ASSISTANT, answer, True, weight)
    return Conversation.of(Message(Role.USER, question), answered)


def conversations(count: int = 40) -> list[Conversation]:
    """Of skewed lengths and weights; a third have two answers, of which one counts twice."""
    made: list[Conversation] = []
    for i in range(count):
        first = asked(f"How many? {'one ' * (1 + i * i % 7)}", f"It is {i % 5}.", WEIGHTS[i % 5])
        more = asked("Sure?", weight=2.0) if i % 3 == 0 else ()
        made.append(Conversation.of(*first, *more))
    return made


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a dataset file as the dataset service does."""

    def written(rows: Sequence[Conversation]) -> Path:
        path = tmp_path / f"dataset-{len(list(tmp_path.glob('dataset-*')))}.parquet"
        with path.open("w+b") as file:
            writer = CanonicalWriter(file)
            for row in rows:
                writer.append(row)
            writer.close()
        return path

    return written


@pytest.fixture
def model(base_model: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(base_model)


@pytest.fixture
def examples() -> list[Example]:
    """Five, shortest first, of which two have no weights; labels also on first and last tokens."""
    generator = torch.Generator().manual_seed(1)
    made: list[Example] = []
    for length, halves in ((5, None), (7, (0.5, 0.5)), (8, (2, 0.25)), (16, None), (25, (7, 1))):
        ids = torch.randint(0, 320, (length,), generator=generator).tolist()
        labeled = (torch.rand(length, generator=generator) < 0.4).tolist()
        labeled[0] = labeled[-1] = True
        weights = None
        if halves is not None:
            weights = array("f", [halves[2 * i // length] * x for i, x in enumerate(labeled)])
        made.append(Example(array("i", ids), bytes(labeled), weights=weights))
    return made


def by_hand(model: torch.nn.Module, examples: Sequence[Example]) -> torch.Tensor:
    """Σ w·ℓ / Σ w, an example at a time, from transformers' logits."""
    losses, weights = torch.zeros(()), 0.0
    for example in examples:
        ids = torch.tensor([list(example.token_ids)])
        if example.source_ids:
            logits = model(input_ids=torch.tensor([list(example.source_ids)]), labels=ids).logits[0]
        else:
            logits = model(input_ids=ids).logits[0].roll(1, dims=0)
        scores = functional.log_softmax(logits, -1)
        for place in range(0 if example.source_ids else 1, len(example.token_ids)):
            given = example.weights or example.labeled
            losses = losses - given[place] * scores[place, example.token_ids[place]]
            weights += given[place]
    return losses / weights


def gradients(model: torch.nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_same(found: Any, wanted: Any) -> None:
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("loss_of", [summed_loss, summed_cross_entropy])
@pytest.mark.parametrize("layout", [padded, packed])
def test_loss_and_gradients_are_those_of_the_formula(
    model: LlamaForCausalLM, examples: list[Example], layout: Layout, loss_of: Any
) -> None:
    wanted = by_hand(model, examples)
    wanted_gradients = gradients(model, wanted)
    batch = layout(examples, CPU)

    logits = label_logits(model, model.lm_head, batch)
    loss = loss_of(logits, batch.targets, batch.weights) / sum(map(label_weight, examples))

    assert_same(loss, wanted)
    assert_same(gradients(model, loss), wanted_gradients)


@pytest.mark.parametrize("loss_of", [summed_loss, summed_cross_entropy])
def test_those_of_pairs_too(examples: list[Example], loss_of: Any) -> None:
    torch.manual_seed(0)
    model = t5()
    pairs = [
        Example(
            example.token_ids,
            bytes([1] * len(example)),
            array("i", example.token_ids[::-1]),
            weights=array("f", [weight] * len(example)) if weight != 1 else None,
        )
        for example, weight in zip(examples, WEIGHTS, strict=True)
    ]
    wanted = by_hand(model, pairs)
    wanted_gradients = gradients(model, wanted)
    batch = paired(0)(pairs, CPU)

    logits = label_logits(model, model.lm_head, batch)
    loss = loss_of(logits, batch.targets, batch.weights) / sum(map(label_weight, pairs))

    assert_same(loss, wanted)
    assert_same(gradients(model, loss), wanted_gradients)


@pytest.mark.parametrize("layout", [padded, packed])
@pytest.mark.parametrize(("processes", "limit"), [(1, 0), (1, 20), (2, 0), (3, 30), (7, 0)])
def test_parts_and_processes_add_up_to_the_whole(
    model: LlamaForCausalLM, examples: list[Example], layout: Layout, processes: int, limit: int
) -> None:
    wanted = by_hand(model, examples)
    wanted_gradients = gradients(model, wanted)
    parts = [
        batch
        for rank in range(processes)
        for batch in divided(examples, layout, CPU, Team(rank, processes), limit)
    ]

    model.zero_grad()
    total = 0.0
    for batch in parts:
        logits = label_logits(model, model.lm_head, batch)
        loss = summed_cross_entropy(logits, batch.targets, batch.weights)
        torch.autograd.backward(loss / sum(map(label_weight, examples)))
        total += loss.item()

    assert len(parts) > 1 or (processes, limit) == (1, 0)
    assert total / sum(map(label_weight, examples)) == pytest.approx(wanted.item(), rel=1e-5)
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert_same(found, wanted_gradients)


def test_only_the_ratios_of_weights_matter(
    model: LlamaForCausalLM, examples: list[Example]
) -> None:
    plain = [Example(example.token_ids, example.labeled) for example in examples]
    halved = [
        Example(e.token_ids, e.labeled, weights=array("f", [0.5 * x for x in e.labeled]))
        for e in examples
    ]
    found = []
    for each in (plain, halved):
        batch = padded(each, CPU)
        loss = summed_loss(
            label_logits(model, model.lm_head, batch), batch.targets, batch.weights
        ) / sum(map(label_weight, each))
        found.append((loss.detach(), gradients(model, loss)))
    assert_same(found[1], found[0])


def test_a_batch_without_weights_has_none(examples: list[Example]) -> None:
    plain = [example for example in examples if example.weights is None]
    for layout in (padded, packed):
        assert layout(plain, CPU).weights is None
        batch = layout(examples, CPU)
        assert batch.weights is not None
        assert batch.weights.shape == batch.targets.shape
        assert not batch.weights[batch.labels :].any()
        assert batch.weights[: batch.labels].all()
    assert [label_weight(example) for example in plain] == [count_labels(e) for e in plain]


def test_weights_are_not_rounded_where_products_are(examples: list[Example]) -> None:
    batch = padded(examples, CPU)
    torch.manual_seed(0)
    logits = torch.randn(len(batch.targets), 320)
    for loss_of in (summed_loss, summed_cross_entropy):
        exact = loss_of(logits, batch.targets, batch.weights)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(loss_of(logits, batch.targets, batch.weights), exact)


def test_a_step_of_a_run_is_that_of_the_formula(
    make_job: MakeJob, run_here: RunHere, write: Write, base_model: Path
) -> None:
    rows = [asked("One?", "Yes, one."), asked("Two?", "No.", weight=0.5), asked("Three?", "Why?")]
    settings = {"max_steps": 1, "batch_size": 3, "validation_fraction": 0.0}
    job = make_job(settings, method=Full(), dataset_file=write(rows))
    (step,) = [event for event in run_here(job) if isinstance(event, StepDone)]

    model = LlamaForCausalLM.from_pretrained(base_model)
    loss = by_hand(model, prepare(job).examples.training)
    norm = torch.cat([g.flatten() for g in gradients(model, loss).values()]).norm()
    assert step.loss == pytest.approx(loss.item(), rel=1e-5)
    assert step.gradient_norm == pytest.approx(norm.item(), rel=1e-4)


def test_a_run_in_parts_learns_what_the_whole_does(
    make_job: MakeJob, run_here: RunHere, write: Write, tmp_path: Path
) -> None:
    dataset = write(conversations())
    once = {"max_steps": 3, "warmup_steps": 0, "checkpoint_every": 0, "evaluate_every": 0}
    losses: list[list[float]] = []
    results: list[torch.Tensor] = []
    for name, cut in CUTS.items():
        job = make_job({**once, **cut}, method=DRY, dataset_file=dataset, work_dir=tmp_path / name)
        losses.append([e.loss for e in run_here(job) if isinstance(e, StepDone | Evaluated)])
        tensors = safetensors.torch.load_file(job.artifacts_dir / "adapter_model.safetensors")
        results.append(torch.cat([tensor.flatten() for tensor in tensors.values()]))

    assert len(losses[0]) == 4
    for other, result in zip(losses[1:], results[1:], strict=True):
        assert other == pytest.approx(losses[0], rel=1e-4)
        assert (result - results[0]).norm() < 1e-3 * results[0].norm()


@pytest.mark.parametrize("limit", [0, 30])
def test_the_held_out_loss_is_weighted_and_the_accuracy_is_not(
    make_job: MakeJob, base_model: Path, examples: list[Example], limit: int
) -> None:
    tunable = load_tunable_model(make_job(method=Full()), torch.float32, CPU)
    plain = [Example(example.token_ids, example.labeled) for example in examples]
    weighted, unweighted = (
        evaluate(tunable, divided(each, padded, CPU, Team(), limit), Team())
        for each in (examples, plain)
    )
    with torch.no_grad():
        wanted = by_hand(LlamaForCausalLM.from_pretrained(base_model), examples)
    assert weighted.loss == pytest.approx(wanted.item(), rel=1e-5)
    assert weighted.loss != pytest.approx(unweighted.loss, rel=1e-2)
    assert weighted.token_accuracy == unweighted.token_accuracy
    assert weighted.tokens == unweighted.tokens


@pytest.fixture
def load(make_job: MakeJob, base_model: Path) -> Callable[..., Examples]:
    def loaded(path: Path, kind: Any = ChatEncoder) -> Examples:
        settings = make_job({"validation_fraction": 0.2}).training
        return load_examples(path, kind.load(base_model), 64, settings, seed=3)

    return loaded


def test_examples_carry_the_weights_of_their_messages(
    write: Write, load: Callable[..., Examples]
) -> None:
    turns = (*asked("b", weight=0.5), *asked("c"), *asked("d", weight=2.0))
    rows = [asked("a"), Conversation.of(*turns)]
    for kind, whole in ((ChatEncoder, {0.0, 0.5, 1.0, 2.0}), (PairEncoder, {0.5, 2.0})):
        loaded = load(write(rows), kind)
        found = {e.row: set[float]() for e in (*loaded.training, *loaded.validation)}
        for example in (*loaded.training, *loaded.validation):
            found[example.row] |= set(example.weights or ())
        assert found == {0: set(), 1: whole}


def test_weights_of_0_and_1_are_the_examples_without(
    write: Write, load: Callable[..., Examples], tmp_path: Path
) -> None:
    """So checkpoints and results of before stay what they are."""
    unlearnt = (Message(Role.USER, "b"), Message(Role.ASSISTANT, "c"))
    rows = [Conversation.of(*asked(f"Question {i}"), *unlearnt) for i in "abc"]
    told = [
        [{"role": m.role, "content": m.content, "weight": m.loss_weight} for m in row]
        for row in rows
    ]
    fields = [("role", pa.string()), ("content", pa.string()), ("weight", pa.float64())]
    path = tmp_path / "weights.parquet"
    pq.write_table(pa.table({"messages": pa.array(told, pa.list_(pa.struct(fields)))}), path)

    plain, weighted = load(write(rows)), load(path)

    assert weighted.digest == plain.digest
    assert all(e.weights is None for e in (*weighted.training, *weighted.validation))


def test_another_weight_is_another_dataset(write: Write, load: Callable[..., Examples]) -> None:
    files = [write([asked("a", weight=weight), asked("b")]) for weight in (1.0, 0.5, 0.25)]
    assert len({load(file).digest for file in files}) == 3


@pytest.mark.parametrize(
    ("role", "weight"),
    [
        ("assistant", -1.0),
        ("assistant", 1e-9),
        ("assistant", 1e9),
        ("assistant", float("nan")),
        ("assistant", None),
        ("user", 0.5),
        ("user", 1.0),
    ],
)
def test_a_weight_that_cannot_be_is_refused(
    role: str, weight: float | None, load: Callable[..., Examples], tmp_path: Path
) -> None:
    path = tmp_path / "weights.parquet"
    turn = {"role": role, "content": "a", "weight": weight}
    pq.write_table(pa.table({"messages": [[turn]]}), path)
    with pytest.raises(InvalidData, match="train or weight"):
        load(path)
