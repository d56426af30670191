"""Anneal's client: `Client` speaks to the services, `Platform` runs them on this machine.

Everything is imported on first use, so that importing a stub (`anneal.dataset.v1…`) or asking the
command for help costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anneal.addresses import Addresses
    from anneal.client import Client
    from anneal.errors import AnnealError
    from anneal.up.platform import Platform

__all__ = ["Addresses", "AnnealError", "Client", "Platform"]

_HOMES = {
    "Addresses": "anneal.addresses",
    "AnnealError": "anneal.errors",
    "Client": "anneal.client",
    "Platform": "anneal.up.platform",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'anneal' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
