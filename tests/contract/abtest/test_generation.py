"""Answers are generated to the end, whatever happens in between."""

import asyncio
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo

from anneal.abtest.v1.ab_test_service_pb2 import DeleteExperimentRequest
from anneal.abtest.v1.experiment_pb2 import Experiment

READY, FAILED = Experiment.STATE_READY, Experiment.STATE_FAILED
QUESTIONS = [f"Question {number}?" for number in range(12)]


class Gate:
    """Holds calls until it is open."""

    def __init__(self) -> None:
        self.open = asyncio.Event()

    async def hold(self, _: Any, context: Any) -> None:
        await self.open.wait()


async def refused(_: Any, context: Any) -> None:
    await context.abort(grpc.StatusCode.UNAVAILABLE, "worker stopped")


async def busy(_: Any, context: Any) -> None:
    await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "32 requests are waiting")


async def shutting_down(_: Any, context: Any) -> None:
    await context.abort(grpc.StatusCode.CANCELLED, "the call was taken in and not handed over")


async def denied(_: Any, context: Any) -> None:
    await context.abort(grpc.StatusCode.PERMISSION_DENIED, "not with this key")


async def test_at_most_four_answers_are_asked_for_at_a_time(caller: Any, inference: Any) -> None:
    gate = Gate()
    inference.trouble = gate.hold

    created = await caller.create(*QUESTIONS)
    while inference.at_a_time < 4:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)
    assert len(inference.requests) == 4
    gate.open.set()
    await caller.until(created.name, READY)

    assert inference.most_at_a_time == 4
    assert len(inference.requests) == 2 * len(QUESTIONS)


@pytest.mark.parametrize("trouble", [refused, busy, shutting_down])
async def test_an_outage_is_waited_out(caller: Any, inference: Any, trouble: Any) -> None:
    inference.trouble = trouble
    created = await caller.create("Hi", "Bye")
    while len(inference.requests) < 8:
        await asyncio.sleep(0.02)
    assert (await caller.get(created.name)).state == Experiment.STATE_GENERATING

    inference.trouble = None

    assert (await caller.until(created.name, READY)).ready_count == 2


async def test_any_other_failure_ends_the_experiment_with_its_status(
    caller: Any, inference: Any
) -> None:
    inference.trouble = denied

    created = await caller.create(*QUESTIONS)
    failed = await caller.until(created.name, FAILED)

    assert failed.error.code == grpc.StatusCode.PERMISSION_DENIED.value[0]
    assert failed.error.message == "not with this key"
    asked = len(inference.requests)
    await asyncio.sleep(0.1)
    assert len(inference.requests) == asked < 2 * len(QUESTIONS)
    refusal = await caller.refusal(caller.next_pair(created.name))
    assert (refusal.code, refusal.reason) == ("FAILED_PRECONDITION", "EXPERIMENT_FAILED")


async def test_the_reason_of_the_failure_is_told(
    caller: Any, inference: Any, too_long: Any
) -> None:
    inference.trouble = too_long

    failed = await caller.until((await caller.create("Hi")).name, FAILED)

    info = ErrorInfo()
    assert failed.error.details[0].Unpack(info)
    assert info.reason == "PROMPT_TOO_LONG"


async def test_one_experiment_in_trouble_does_not_hold_up_another(
    caller: Any, inference: Any
) -> None:
    async def only_the_first(request: Any, context: Any) -> None:
        if request.messages[0].content == "Trouble":
            await refused(request, context)

    inference.trouble = only_the_first
    troubled = await caller.create("Trouble", experiment_id="troubled")

    fine = await caller.create("Fine")

    assert (await caller.until(fine.name, READY)).ready_count == 1
    assert (await caller.get(troubled.name)).state == Experiment.STATE_GENERATING


async def test_a_restart_goes_on_where_the_last_process_was(start: Any, inference: Any) -> None:
    inference.delay_s = 0.05
    async with start() as caller:
        created = await caller.create(*QUESTIONS)
        while (await caller.get(created.name)).ready_count < 4:
            await asyncio.sleep(0.02)
    asked = len(inference.requests)

    async with start() as caller:
        ready = await caller.until(created.name, READY)

    assert ready.ready_count == len(QUESTIONS)
    assert len(inference.requests) - asked <= 2 * (len(QUESTIONS) - 4)


async def test_an_experiment_deleted_meanwhile_leaves_nothing(caller: Any, inference: Any) -> None:
    gate = Gate()
    inference.trouble = gate.hold
    created = await caller.create("Hi", experiment_id="support")
    while inference.at_a_time < 2:
        await asyncio.sleep(0.01)
    await caller.stub.DeleteExperiment(DeleteExperimentRequest(name=created.name))
    gate.open.set()

    again = await caller.ready("Hi", experiment_id="support")

    assert (again.ready_count, again.uid != created.uid) == (1, True)
