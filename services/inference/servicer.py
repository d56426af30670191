"""InferenceService: proto ⇄ domain."""

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import Any

from grpc.aio import ServicerContext

from anneal.common.v1 import conversation_pb2
from anneal.inference.v1 import inference_service_pb2 as pb
from anneal.inference.v1.inference_service_pb2_grpc import InferenceServiceServicer
from services.common.faults import InvalidArgument, Violation
from services.common.names import ProjectName
from services.inference.domain.answers import Answers
from services.inference.domain.generation import (
    Conversation,
    FinishReason,
    Piece,
    Role,
    Sampling,
    Turn,
    Usage,
)

_ROLES: dict[int, Role] = {
    conversation_pb2.ROLE_SYSTEM: "system",
    conversation_pb2.ROLE_USER: "user",
    conversation_pb2.ROLE_ASSISTANT: "assistant",
}
_FINISH_REASONS = {
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
}
_SAMPLING_FIELDS = (
    "max_output_tokens",
    "temperature",
    "top_p",
    "top_k",
    "repetition_penalty",
    "seed",
)
Context = ServicerContext[Any, Any]


class InferenceServicer(InferenceServiceServicer):
    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    async def GenerateText(
        self, request: pb.GenerateTextRequest, context: Context
    ) -> pb.GenerateTextResponse:
        response = pb.GenerateTextResponse()
        async with aclosing(self._stream(request)) as pieces:
            async for piece in pieces:
                response.text += piece.text
                response.model = response.model or piece.model
                response.finish_reason = piece.finish_reason
                response.usage.CopyFrom(piece.usage)
        return response

    async def StreamGenerateText(
        self, request: pb.StreamGenerateTextRequest, context: Context
    ) -> AsyncGenerator[pb.StreamGenerateTextResponse]:
        async with aclosing(self._stream(request)) as pieces:
            async for piece in pieces:
                yield piece

    async def ScoreConversation(
        self, request: pb.ScoreConversationRequest, context: Context
    ) -> pb.ScoreConversationResponse:
        project = ProjectName.parse(request.parent, "parent").project
        model, score = await self._answers.score(
            project, request.model, _conversation(request.messages)
        )
        return pb.ScoreConversationResponse(
            loss_sum=score.loss_sum, token_count=score.token_count, model=model.name
        )

    async def _stream(
        self, request: pb.GenerateTextRequest | pb.StreamGenerateTextRequest
    ) -> AsyncGenerator[pb.StreamGenerateTextResponse]:
        answering = await self._answers.generate(
            ProjectName.parse(request.parent, "parent").project,
            request.model,
            _conversation(request.messages),
            _sampling(request.sampling),
        )
        model = answering.model.name
        async with aclosing(answering.pieces) as pieces:
            async for piece in pieces:
                yield _response(piece, model)
                model = ""


def _response(piece: Piece, model: str) -> pb.StreamGenerateTextResponse:
    response = pb.StreamGenerateTextResponse(text=piece.text, model=model)
    if piece.finish_reason is not None:
        response.finish_reason = _FINISH_REASONS[piece.finish_reason]
    if piece.usage is not None:
        response.usage.CopyFrom(_usage(piece.usage))
    return response


def _usage(usage: Usage) -> pb.TokenUsage:
    return pb.TokenUsage(prompt_tokens=usage.prompt_tokens, output_tokens=usage.output_tokens)


def _conversation(messages: Iterable[conversation_pb2.ChatMessage]) -> Conversation:
    listed = list(messages)
    faults = [
        Violation(f"messages.{index}.role", "must be system, user or assistant", "UNKNOWN_ROLE")
        for index, message in enumerate(listed)
        if message.role not in _ROLES
    ]
    faults += [
        Violation(f"messages.{index}.tool_calls", "tools are for datasets alone", "TOOLS_UNKNOWN")
        for index, message in enumerate(listed)
        if message.tool_calls
    ]
    if faults:
        raise InvalidArgument(faults)
    return tuple(Turn(_ROLES[message.role], message.content) for message in listed)


def _sampling(message: pb.SamplingParameters) -> Sampling:
    """Raises pydantic's ValidationError with every field that is out of range."""
    given: dict[str, object] = {
        field: getattr(message, field) for field in _SAMPLING_FIELDS if message.HasField(field)
    }
    return Sampling.model_validate({**given, "stop_sequences": tuple(message.stop_sequences)})
