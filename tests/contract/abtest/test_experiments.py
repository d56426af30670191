"""Experiments from their creation to their deletion, as a caller sees them."""

import uuid
from typing import Any

import pytest

from anneal.abtest.v1 import ab_test_service_pb2 as pb
from anneal.abtest.v1.experiment_pb2 import Experiment
from services.abtest.__main__ import MIGRATIONS
from services.abtest.adapters.tables import Row
from services.common.migrations import check

BASE = "baseModels/tiny-base"
MODEL = "projects/default/models/support"
VERSION = f"{MODEL}/versions/v-0123456789abcdef"
NEWER = f"{MODEL}/versions/v-fedcba9876543210"
CHAMPION = f"{MODEL}/aliases/champion"
GENERATING, READY, FAILED = (
    Experiment.STATE_GENERATING,
    Experiment.STATE_READY,
    Experiment.STATE_FAILED,
)


def with_models(baseline: str, candidate: str) -> Experiment:
    made = Experiment(baseline_model=baseline, candidate_model=candidate)
    made.prompts.add().messages.add(role=2, content="Hi")
    return made


async def test_the_migrations_make_what_the_tables_declare(database_url: str) -> None:
    await check(database_url, MIGRATIONS, Row.metadata)


async def test_it_is_created_generated_and_ready(caller: Any, inference: Any) -> None:
    created = await caller.create("Where is my parcel?", "Hi\0 there", experiment_id="support")

    assert created.name == "projects/default/experiments/support"
    assert (created.state, created.ready_count, created.prompt_count) == (GENERATING, 0, 2)
    assert (created.baseline_model, created.candidate_model) == (BASE, VERSION)
    assert created.max_output_tokens == 256

    ready = await caller.until(created.name, READY)
    assert ready.ready_count == 2
    assert [prompt.messages[0].content for prompt in ready.prompts] == [
        "Where is my parcel?",
        "Hi\0 there",
    ]
    asked = sorted((ask.model, ask.messages[-1].content) for ask in inference.requests)
    assert asked == sorted(
        (model, question)
        for model in (BASE, VERSION)
        for question in ("Where is my parcel?", "Hi\0 there")
    )


async def test_answers_are_greedy_and_of_the_asked_length(caller: Any, inference: Any) -> None:
    experiment = with_models(BASE, VERSION)
    experiment.max_output_tokens = 7

    await caller.ready(experiment=experiment)

    for request in inference.requests:
        assert request.parent == "projects/default"
        assert request.sampling.HasField("temperature")
        assert (request.sampling.temperature, request.sampling.max_output_tokens) == (0, 7)


@pytest.mark.parametrize(
    ("named", "resolved"), [(CHAMPION, VERSION), (f"{MODEL}/versions/latest", NEWER), (BASE, BASE)]
)
async def test_models_are_resolved_when_it_is_created(
    caller: Any, registry: Any, named: str, resolved: str
) -> None:
    created = await caller.create(experiment=with_models(named, VERSION))
    registry.aliases[CHAMPION] = NEWER

    assert (await caller.get(created.name)).baseline_model == resolved


async def test_unknown_models_are_refused_both_at_once_with_every_other_fault(
    caller: Any,
) -> None:
    experiment = with_models("baseModels/gpt", f"{MODEL}/aliases/nobody")
    experiment.max_output_tokens = 5000

    refusal = await caller.refusal(caller.create(experiment=experiment))

    assert refusal.code == "INVALID_ARGUMENT"
    assert {(v.field, v.reason) for v in refusal.violations} == {
        ("experiment.baseline_model", "MODEL_NOT_FOUND"),
        ("experiment.candidate_model", "MODEL_NOT_FOUND"),
        ("experiment.max_output_tokens", "OUT_OF_RANGE"),
    }


async def test_without_the_registry_it_cannot_be_created(caller: Any, registry: Any) -> None:
    registry.down = True

    refusal = await caller.refusal(caller.create("Hi"))

    assert (refusal.code, refusal.reason) == ("UNAVAILABLE", "DEPENDENCY_DOWN")


async def test_a_name_is_taken_once(caller: Any) -> None:
    await caller.create("Hi", experiment_id="support")

    for validate_only in (False, True):
        call = caller.create("Hi", experiment_id="support", validate_only=validate_only)
        refusal = await caller.refusal(call)
        assert (refusal.code, refusal.reason) == ("ALREADY_EXISTS", "EXPERIMENT_EXISTS")


async def test_validate_only_answers_but_creates_nothing(caller: Any, inference: Any) -> None:
    made = await caller.create("Hi", experiment_id="support", validate_only=True)

    assert (made.candidate_model, made.prompt_count) == (VERSION, 1)
    refusal = await caller.refusal(caller.get(made.name))
    assert (refusal.code, refusal.reason) == ("NOT_FOUND", "EXPERIMENT_NOT_FOUND")
    assert not inference.requests


async def test_a_repeated_request_gets_the_same_experiment_as_it_now_is(
    caller: Any, registry: Any
) -> None:
    request_id = str(uuid.uuid4())
    first = await caller.ready("Hi", request_id=request_id)
    registry.aliases.clear()

    again = await caller.create("Hi", request_id=request_id)

    assert again == first


async def test_a_request_id_is_good_for_one_experiment(caller: Any) -> None:
    request_id = str(uuid.uuid4())
    await caller.create("Hi", request_id=request_id)

    refusal = await caller.refusal(caller.create("Bye", request_id=request_id))

    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "REQUEST_ID_REUSED")


async def test_lists_are_newest_first_page_by_page_and_without_prompts(
    caller: Any, clock: Any
) -> None:
    for name in ("one", "two", "three"):
        await caller.create("Hi", experiment_id=name)
        clock.advance(0.000001)
    await caller.create("Hi", parent="projects/other", experiment=with_models(BASE, BASE))

    listed, token = [], ""
    for _ in range(2):
        request = pb.ListExperimentsRequest(
            parent="projects/default", page_size=2, page_token=token
        )
        page = await caller.stub.ListExperiments(request)
        listed.extend(page.experiments)
        token = page.next_page_token

    assert [one.name.rpartition("/")[2] for one in listed] == ["three", "two", "one"]
    assert not any(one.prompts for one in listed)
    assert all(one.prompt_count == 1 for one in listed)
    assert token == ""


async def test_a_token_of_another_list_is_refused(caller: Any) -> None:
    await caller.create("Hi")
    await caller.create("Hi")
    request = pb.ListExperimentsRequest(parent="projects/default", page_size=1)
    token = (await caller.stub.ListExperiments(request)).next_page_token

    other = pb.ListExperimentsRequest(parent="projects/other", page_token=token)
    refusal = await caller.refusal(caller.stub.ListExperiments(other))

    assert refusal.reason == "PAGE_TOKEN_INVALID"


async def test_deleted_is_gone_with_its_votes_and_its_name_is_free(caller: Any) -> None:
    ready = await caller.ready("Hi", experiment_id="support")
    pair = await caller.next_pair(ready.name)
    await caller.cast(pair.name, 1)

    await caller.stub.DeleteExperiment(pb.DeleteExperimentRequest(name=ready.name))

    for call in (
        caller.get(ready.name),
        caller.next_pair(ready.name),
        caller.report(ready.name),
        caller.stub.DeleteExperiment(pb.DeleteExperimentRequest(name=ready.name)),
    ):
        assert (await caller.refusal(call)).reason == "EXPERIMENT_NOT_FOUND"
    assert (await caller.refusal(caller.cast(pair.name, 1))).reason == "PAIR_NOT_FOUND"

    anew = await caller.ready("Hi", experiment_id="support")
    assert (await caller.report(anew.name)).voter_count == 0
    assert (await caller.next_pair(anew.name)).name != pair.name
