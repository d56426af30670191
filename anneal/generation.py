"""Answers: complete or piece by piece, and how likely a model finds given ones."""

from collections.abc import Generator

from anneal.connection import Connection
from anneal.conversations import Conversation, messages_of
from anneal.inference.v1.inference_service_pb2 import (
    GenerateTextRequest,
    GenerateTextResponse,
    SamplingParameters,
    ScoreConversationRequest,
    ScoreConversationResponse,
    StreamGenerateTextRequest,
    StreamGenerateTextResponse,
)
from anneal.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from anneal.names import Names

GENERATION_DEADLINE_S = 600.0
"""A model may have to be loaded first, and 4,096 tokens take their time on a CPU."""


class Inference:
    """`client.inference`. A model is `tiny-base`, `support@champion`, `support@latest`,
    `support/v-…` or a full name.
    """

    def __init__(self, connection: Connection, names: Names) -> None:
        self._connection = connection
        self._names = names
        self._rpc = InferenceServiceStub(connection.channel)

    def generate(
        self,
        model: str,
        conversation: Conversation,
        *,
        sampling: SamplingParameters | None = None,
        timeout_s: float = GENERATION_DEADLINE_S,
    ) -> GenerateTextResponse:
        """Returns the assistant's next turn when it is complete."""
        request = GenerateTextRequest(
            parent=self._names.parent,
            model=self._names.answering_model(model),
            messages=messages_of(conversation),
            sampling=sampling,
        )
        return self._connection.ask(self._rpc.GenerateText, request, timeout_s)

    def stream(
        self,
        model: str,
        conversation: Conversation,
        *,
        sampling: SamplingParameters | None = None,
        timeout_s: float = GENERATION_DEADLINE_S,
    ) -> Generator[StreamGenerateTextResponse]:
        """Yields the assistant's next turn piece by piece; closing the iterator stops it."""
        request = StreamGenerateTextRequest(
            parent=self._names.parent,
            model=self._names.answering_model(model),
            messages=messages_of(conversation),
            sampling=sampling,
        )
        return self._connection.follow(self._rpc.StreamGenerateText, request, timeout_s)

    def score(
        self,
        model: str,
        conversation: Conversation,
        *,
        timeout_s: float = GENERATION_DEADLINE_S,
    ) -> ScoreConversationResponse:
        """Returns how likely the model finds the assistant's turns of a conversation."""
        request = ScoreConversationRequest(
            parent=self._names.parent,
            model=self._names.answering_model(model),
            messages=messages_of(conversation),
        )
        return self._connection.ask(self._rpc.ScoreConversation, request, timeout_s)
