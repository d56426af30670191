"""InferenceService as a caller sees it, with the real worker and the example base model."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import grpc
import pytest

from anneal.common.v1.conversation_pb2 import ROLE_ASSISTANT, ROLE_USER, ChatMessage
from anneal.inference.v1 import inference_service_pb2 as pb
from tests.contract.inference.conftest import (
    ALIAS,
    BASE,
    PREFIX_VERSION,
    VERSION,
    WHOLE_VERSION,
    Platform,
    serving,
)
from tests.contract.refusals import Refusal

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUESTION = [ChatMessage(role=ROLE_USER, content="What does os.path.join do?")]
ANSWERED = [*QUESTION, ChatMessage(role=ROLE_ASSISTANT, content="It joins paths.")]


def ask(model: str, **sampling: Any) -> pb.GenerateTextRequest:
    return pb.GenerateTextRequest(
        parent="projects/p",
        model=model,
        messages=QUESTION,
        sampling=pb.SamplingParameters(**{"max_output_tokens": 12, **sampling}),
    )


def stream(model: str, **sampling: Any) -> pb.StreamGenerateTextRequest:
    return pb.StreamGenerateTextRequest.FromString(ask(model, **sampling).SerializeToString())


async def test_base_version_and_alias_answer_by_name(platform: Platform) -> None:
    base = await platform.stub.GenerateText(ask(BASE))
    version = await platform.stub.GenerateText(ask(VERSION))
    alias = await platform.stub.GenerateText(ask(ALIAS))
    base_again = await platform.stub.GenerateText(ask(BASE))

    assert base.text
    assert version.text != base.text
    assert (alias.text, alias.model) == (version.text, VERSION)
    assert base_again.text == base.text
    assert base.model == BASE


async def test_versions_of_every_sort_answer_in_turn_and_none_disturbs_another(
    platform: Platform,
) -> None:
    names = [BASE, VERSION, PREFIX_VERSION, WHOLE_VERSION]

    async def asked(name: str) -> tuple[str, float]:
        answer = await platform.stub.GenerateText(ask(name))
        score = await platform.stub.ScoreConversation(
            pb.ScoreConversationRequest(parent="projects/p", model=name, messages=ANSWERED)
        )
        assert answer.model == score.model == name
        return answer.text, score.loss_sum

    once = {name: await asked(name) for name in names}
    again = {name: await asked(name) for name in reversed(names)}

    assert again == once
    assert len({text for text, _ in once.values()}) == len(names)
    assert len({loss for _, loss in once.values()}) == len(names)


async def test_the_streamed_pieces_are_the_whole_answer(platform: Platform) -> None:
    whole = await platform.stub.GenerateText(ask(BASE))

    pieces = [piece async for piece in platform.stub.StreamGenerateText(stream(BASE))]

    assert "".join(piece.text for piece in pieces) == whole.text
    assert len(pieces) > 2
    assert pieces[0].model == BASE
    assert [piece.finish_reason for piece in pieces[:-1]] == [0] * (len(pieces) - 1)
    assert pieces[-1].finish_reason == whole.finish_reason
    assert pieces[-1].usage == whole.usage


async def test_an_answer_ends_at_its_token_limit(platform: Platform) -> None:
    answer = await platform.stub.GenerateText(ask(BASE, max_output_tokens=2))

    assert answer.usage.output_tokens == 2
    assert answer.finish_reason == pb.FINISH_REASON_LENGTH


async def test_the_same_seed_gives_the_same_text(platform: Platform) -> None:
    one, two = [
        (await platform.stub.GenerateText(ask(BASE, temperature=1.5, seed=11))).text
        for _ in range(2)
    ]

    assert one == two


async def test_a_score_tells_how_likely_the_answer_is(platform: Platform) -> None:
    def request(model: str) -> pb.ScoreConversationRequest:
        return pb.ScoreConversationRequest(parent="projects/p", model=model, messages=ANSWERED)

    base = await platform.stub.ScoreConversation(request(BASE))
    tuned = await platform.stub.ScoreConversation(request(VERSION))

    assert base.token_count == tuned.token_count > 3
    assert 0 < base.loss_sum < 12 * base.token_count
    assert tuned.loss_sum != base.loss_sum


@pytest.mark.parametrize(
    ("request_", "code", "reason"),
    [
        (ask("baseModels/none"), "NOT_FOUND", "MODEL_NOT_FOUND"),
        (ask("projects/p/models/m/versions/v-2"), "NOT_FOUND", "MODEL_NOT_FOUND"),
        (ask("projects/p/models/m/aliases/none"), "NOT_FOUND", "MODEL_NOT_FOUND"),
        (ask("nonsense"), "INVALID_ARGUMENT", "RESOURCE_NAME_INVALID"),
        (ask("projects/q/models/m/versions/v-1"), "INVALID_ARGUMENT", "OTHER_PROJECT"),
        (ask(BASE, temperature=9), "INVALID_ARGUMENT", "LESS_THAN_EQUAL"),
        (
            pb.GenerateTextRequest(parent="projects/p", model=BASE),
            "INVALID_ARGUMENT",
            "INVALID_ARGUMENT",
        ),
        (
            pb.GenerateTextRequest(parent="projects/p", model=BASE, messages=ANSWERED),
            "INVALID_ARGUMENT",
            "INVALID_ARGUMENT",
        ),
    ],
)
async def test_bad_requests_are_told_what_is_wrong(
    platform: Platform, request_: pb.GenerateTextRequest, code: str, reason: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await platform.stub.GenerateText(request_)

    assert caught.value.code().name == code
    assert Refusal.of(caught.value).reason == reason


async def test_a_conversation_beyond_the_context_is_refused(platform: Platform) -> None:
    request = pb.GenerateTextRequest(
        parent="projects/p",
        model=BASE,
        messages=[ChatMessage(role=ROLE_USER, content="many words " * 2000)],
    )

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await platform.stub.GenerateText(request)

    assert Refusal.of(caught.value).reason == "PROMPT_TOO_LONG"


async def test_a_killed_worker_costs_one_answer_and_comes_back(platform: Platform) -> None:
    before = await platform.stub.GenerateText(ask(BASE))
    (worker,) = platform.backend.workers
    os.kill(worker.pid, signal.SIGKILL)

    after = await platform.stub.GenerateText(ask(BASE))

    assert after.text == before.text
    (successor,) = platform.backend.workers
    assert successor.pid != worker.pid


async def test_a_caller_that_goes_away_frees_the_worker(platform: Platform) -> None:
    await platform.stub.GenerateText(ask(BASE))
    call = platform.stub.StreamGenerateText(stream(BASE, max_output_tokens=400, temperature=2))
    await call.read()
    call.cancel()

    answer = await asyncio.wait_for(platform.stub.GenerateText(ask(BASE)), timeout=20)

    assert answer.text


async def test_a_registry_that_is_away_is_unavailable_not_unknown(
    tmp_path: Path, adapter_dir: Path
) -> None:
    async with serving(tmp_path, adapter_dir) as platform:
        await platform.registry_server.stop(None)

        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await platform.stub.GenerateText(ask(BASE))

    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert Refusal.of(caught.value).reason == "DEPENDENCY_DOWN"
