"""Ports of this machine: fixed ones from a first, or any that are free."""

import random
import socket
from dataclasses import asdict, dataclass, fields
from itertools import islice
from typing import Self

from anneal.addresses import Addresses
from anneal.up.failures import PlatformError

HOST = "127.0.0.1"
PORT_BASE = 7401
NATS_OFFSET = 21
_BELOW_THE_KERNELS = range(10_000, 32_000)


@dataclass(frozen=True)
class Ports:
    """Where each program listens, on loopback."""

    dataset: int
    trainer: int
    registry: int
    inference: int
    abtest: int
    nats: int

    @classmethod
    def from_base(cls, base: int = PORT_BASE) -> Self:
        """`base` to `base` + 4 for the services and `base` + 21 for NATS: 7401 … 7405 and 7422."""
        return cls(base, base + 1, base + 2, base + 3, base + 4, base + NATS_OFFSET)

    @classmethod
    def free(cls) -> Self:
        """Six ports that nobody listens on now, drawn from below those that the kernel hands out
        to connections, so that they stay free until the services take them."""
        drawn = random.SystemRandom().sample(_BELOW_THE_KERNELS, len(_BELOW_THE_KERNELS))
        return cls(*islice(filter(_is_free, drawn), len(fields(cls))))

    def addresses(self) -> Addresses:
        listening = {name: f"{HOST}:{port}" for name, port in asdict(self).items()}
        del listening["nats"]
        return Addresses(**listening)

    def require_free(self) -> None:
        """Raises PlatformError naming every port that is taken."""
        taken = [f"{port} ({name})" for name, port in asdict(self).items() if not _is_free(port)]
        if taken:
            raise PlatformError(
                f"already in use: port {', '.join(taken)}; stop what listens there, "
                "or choose others with --port-base or --ephemeral"
            )


def _is_free(port: int) -> bool:
    try:
        socket.create_server((HOST, port)).close()
    except OSError:
        return False
    return True
