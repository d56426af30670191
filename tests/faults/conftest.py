"""A platform of real processes, to be killed. `--faults=long` kills more often."""

import os
from collections.abc import Generator
from pathlib import Path

import pytest

from anneal import Client, Platform
from tests.faults.world import World

EXAMPLES = Path(__file__).parents[2] / "examples" / "support.jsonl"
LEASE_S = "5"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--faults",
        choices=("short", "long"),
        default="short",
        help="how many kills: each kind once, or each at several random moments",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out the long tests. (The option is unknown when pytest was not called for here.)"""
    if config.getoption("--faults", default="short") == "long":
        return
    long = [item for item in items if item.get_closest_marker("long")]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in long]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Generator[World]:
    environment = {**os.environ, "ANNEAL_LEASES_LEASE_S": LEASE_S}
    with (
        Platform(
            tmp_path_factory.mktemp("platform"), ephemeral=True, environment=environment
        ) as platform,
        Client(platform.addresses, environment={}) as client,
    ):
        dataset = client.datasets.upload(EXAMPLES, "support").name
        yield World(platform, client, dataset)
