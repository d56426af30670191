"""InferenceService as the source of answers."""

from typing import TYPE_CHECKING

import grpc
from google.rpc import error_details_pb2, status_pb2

from anneal.common.v1 import conversation_pb2
from anneal.inference.v1 import inference_service_pb2 as pb
from services.abtest.domain.experiment import Failure, Prompt, Role
from services.abtest.domain.ports import GenerationFailed, InferenceBusy
from services.common.errors import STATUS_METADATA_KEY
from services.common.names import ProjectName

if TYPE_CHECKING:
    from anneal.inference.v1.inference_service_pb2_grpc import InferenceServiceAsyncStub

GENERATION_TIMEOUT_S = 600.0

_BUSY = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.CANCELLED,  # by a service that is shutting down
}
_ROLES = {
    Role.SYSTEM: conversation_pb2.ROLE_SYSTEM,
    Role.USER: conversation_pb2.ROLE_USER,
    Role.ASSISTANT: conversation_pb2.ROLE_ASSISTANT,
}


class GrpcInference:
    """Inference over GenerateText, greedily."""

    def __init__(
        self, stub: "InferenceServiceAsyncStub", timeout_s: float = GENERATION_TIMEOUT_S
    ) -> None:
        self._stub = stub
        self._timeout_s = timeout_s

    async def answer(
        self, project: ProjectName, model: str, prompt: Prompt, max_output_tokens: int
    ) -> str:
        request = pb.GenerateTextRequest(
            parent=str(project),
            model=model,
            messages=[
                conversation_pb2.ChatMessage(role=_ROLES[turn.role], content=turn.content)
                for turn in prompt
            ],
            sampling=pb.SamplingParameters(max_output_tokens=max_output_tokens, temperature=0),
        )
        try:
            return (await self._stub.GenerateText(request, timeout=self._timeout_s)).text
        except grpc.aio.AioRpcError as error:
            if error.code() in _BUSY:
                raise InferenceBusy(f"{error.code().name}: {error.details()}") from error
            raise GenerationFailed(_failure(error)) from error


def _failure(error: grpc.aio.AioRpcError) -> Failure:
    code: int = error.code().value[0]
    return Failure(code, _reason(error) or error.code().name, error.details() or "")


def _reason(error: grpc.aio.AioRpcError) -> str:
    """The reason of the ErrorInfo in the call's status; "" if gRPC itself made the error."""
    info = error_details_pb2.ErrorInfo()
    for key, value in error.trailing_metadata():
        if key == STATUS_METADATA_KEY and isinstance(value, bytes):
            for detail in status_pb2.Status.FromString(value).details:
                detail.Unpack(info)
    return info.reason
