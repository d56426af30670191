"""Whether a service serves: the standard health check (grpc.health.v1).

`python -m anneal.health HOST:PORT` asks it, with the TLS files that `ANNEAL_TLS_…` name, and exits
0 or 1. It is what a container's health check runs: those of Kubernetes ask without TLS only.
"""

import os
import sys
from collections.abc import Sequence

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from anneal.transport import Tls, open_blocking_channel

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


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code."""
    if len(arguments) != 1:
        print("usage: python -m anneal.health HOST:PORT", file=sys.stderr)
        return 2
    try:
        channel = open_blocking_channel(arguments[0], tls=Tls.find(os.environ))
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    with channel:
        if is_serving(channel):
            return 0
    print(f"{arguments[0]}: does not serve", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
