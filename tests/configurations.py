"""What each program of the platform can be told by its environment."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

from services.abtest.config import AbTestConfig
from services.dataset.config import DatasetConfig
from services.inference.config import InferenceConfig
from services.registry.config import RegistryConfig
from services.trainer.control.config import ControlConfig
from services.trainer.node.config import NodeConfig

CONFIGS: dict[str, type[Any]] = {
    "dataset": DatasetConfig,
    "trainer": ControlConfig,
    "registry": RegistryConfig,
    "inference": InferenceConfig,
    "abtest": AbTestConfig,
    "node": NodeConfig,
}
CLIENTS = {"ANNEAL_TLS_CA"}
"""What a health check is told, which is a client."""


def variables_of(cls: type[Any], prefix: str = "ANNEAL_") -> Iterator[str]:
    """Every variable that a configuration is read from."""
    hints = get_type_hints(cls)
    for field in fields(cls):
        variable = prefix + field.name.upper()
        if is_dataclass(kind := hints[field.name]):
            yield from variables_of(kind, f"{variable}_")
        else:
            yield variable
