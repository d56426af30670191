"""Where the services listen: told by the caller, the environment, or a running `anneal up`."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Self

ADDRESSES_FILE = "addresses.json"
"""Written into its data directory by `anneal up` while it runs."""

DATA_DIR_VARIABLE = "ANNEAL_DATA_DIR"
DEFAULT_DATA_DIR = "anneal-data"


@dataclass(frozen=True)
class Addresses:
    """`host:port` of each service. The defaults are the ports of `anneal up`."""

    dataset: str = "127.0.0.1:7401"
    trainer: str = "127.0.0.1:7402"
    registry: str = "127.0.0.1:7403"
    inference: str = "127.0.0.1:7404"
    abtest: str = "127.0.0.1:7405"

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads an addresses file. Raises OSError or ValueError."""
        known = {field.name for field in fields(cls)}
        content: dict[str, str] = json.loads(path.read_text("utf-8"))
        return cls(**{service: at for service, at in content.items() if service in known})

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    def to_environment(self) -> dict[str, str]:
        """Returns the variables by which services and clients are told these addresses."""
        return {_variable(service): at for service, at in asdict(self).items()}


def find_addresses(environment: Mapping[str, str]) -> Addresses:
    """Returns the addresses that the environment tells.

    In order: `ANNEAL_<SERVICE>_ADDRESS`; the file of an `anneal up` that runs on
    `ANNEAL_DATA_DIR` (default `anneal-data` in the working directory); the default ports.
    """
    data_dir = Path(environment.get(DATA_DIR_VARIABLE) or DEFAULT_DATA_DIR)
    path = data_dir / ADDRESSES_FILE
    found = Addresses.read(path) if path.is_file() else Addresses()
    told = {
        field.name: environment[_variable(field.name)]
        for field in fields(Addresses)
        if environment.get(_variable(field.name))
    }
    return replace(found, **told)


def _variable(service: str) -> str:
    return f"ANNEAL_{service.upper()}_ADDRESS"
