"""A port that nobody listens on."""

import random
import socket

_BELOW_THE_KERNELS = range(10_000, 32_000)


def free_port() -> int:
    """A TCP port of the loopback interface that was free a moment ago. It is below those that the
    kernel hands out to connections, so that none of these takes it meanwhile."""
    draw = random.SystemRandom()
    while True:
        port = draw.choice(_BELOW_THE_KERNELS)
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
