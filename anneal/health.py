"""Whether a service serves: the standard health check (grpc.health.v1)."""

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

ANSWER_WITHIN_S = 1.0


def is_serving(channel: grpc.Channel) -> bool:
    """Whether the service says SERVING for all it does: its database, bus and blobs answer."""
    check = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=HealthCheckRequest.SerializeToString,
        response_deserializer=HealthCheckResponse.FromString,
    )
    try:
        answer = check(HealthCheckRequest(), timeout=ANSWER_WITHIN_S)
    except grpc.RpcError:
        return False
    return answer.status == HealthCheckResponse.SERVING
