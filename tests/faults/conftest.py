"""Platforms of real processes, to be killed. `--faults=long` kills more often, `--fault=R3` runs
the tests of one id of docs/reliability.md."""

import asyncio
import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from anneal import Client, Platform
from services.common.testing.postgres import Postgres, postgres
from tests.conftest import NO_IDLE_WORK
from tests.faults.figures import line_of
from tests.faults.site import SPINE, Site
from tests.faults.world import World

EXAMPLES = Path(__file__).parents[2] / "examples" / "support.jsonl"
LEASE_S = "5"
ENVIRONMENT = {"ANNEAL_LEASES_LEASE_S": LEASE_S, "ANNEAL_LEASES_RETRY_DELAY_S": "0.1"}
FIGURES = "figures"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--faults",
        choices=("short", "long"),
        default="short",
        help="how many kills: each kind once, or each at several random moments",
    )
    parser.addoption("--fault", help="only the tests of this id, as R3")
    parser.addoption("--minutes", type=float, help="how long R1 (10) and R17 (60) run, with long")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out the long tests, and those of other ids than the one asked for. (The options are
    unknown when pytest was not called for here.)"""
    left_out = [] if is_long(config) else [item for item in items if "long" in item.keywords]
    if wanted := config.getoption("--fault", default=None):
        known = {fault for item in items for fault in faults_of(item)}
        if wanted not in known:
            there = ", ".join(sorted(known, key=lambda one: int(one[1:])))
            raise pytest.UsageError(f"no test has the id {wanted}; there are {there}")
        left_out += [item for item in items if wanted not in faults_of(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def is_long(config: pytest.Config) -> bool:
    return config.getoption("--faults", default="short") == "long"


def faults_of(item: pytest.Item) -> set[str]:
    """The ids of what a test shows."""
    return {str(fault) for mark in item.iter_markers("fault") for fault in mark.args}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A line of JSON for each figure, also of tests that run in other processes."""
    if lines := [*_figures(terminalreporter)]:
        terminalreporter.section("figures")
        for line in lines:
            terminalreporter.write_line(line)


def _figures(reporter: pytest.TerminalReporter) -> Iterator[str]:
    for reports in reporter.stats.values():
        for report in reports:
            if getattr(report, "when", "") == "call":
                yield from (str(value) for key, value in report.user_properties if key == FIGURES)


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Shows figures at the end of the run: `tell("R3", stale_writes=0)`."""

    def told(fault: str, /, **figures: object) -> None:
        record_property(FIGURES, line_of(fault, **figures))

    return told


@pytest.fixture(scope="session")
def long(request: pytest.FixtureRequest) -> bool:
    """Whether figures are wanted rather than a quick look."""
    return is_long(request.config)


@pytest.fixture
def lasting_s(request: pytest.FixtureRequest, long: bool) -> Callable[[float, float], float]:
    """Seconds: `lasting_s(short, long)`, of which the option has the last word."""
    minutes = request.config.getoption("--minutes", default=None)

    def chosen(short_s: float, long_s: float) -> float:
        if not long:
            return short_s
        return long_s if minutes is None else minutes * 60

    return chosen


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Generator[World]:
    environment = {**os.environ, **NO_IDLE_WORK, "ANNEAL_LEASES_LEASE_S": LEASE_S}
    with (
        Platform(
            tmp_path_factory.mktemp("platform"), ephemeral=True, environment=environment
        ) as platform,
        Client(platform.addresses, environment={}) as client,
    ):
        dataset = client.datasets.upload(EXAMPLES, "support").name
        yield World(platform, client, dataset)


@pytest.fixture(scope="session")
def shared_site(tmp_path_factory: pytest.TempPathFactory) -> Generator[Site]:
    """On SQLite, with short leases and one node."""
    with Site(tmp_path_factory.mktemp("site"), environment=ENVIRONMENT) as site:
        site.start_all("node-a")
        yield site


@pytest.fixture
def site(shared_site: Site) -> Generator[Site]:
    """All of it runs again after each test, however that ended."""
    yield shared_site
    shared_site.restore("node-a")


@pytest.fixture
def durable_postgres() -> Generator[Postgres]:
    """A server that may be killed: what it has committed is on disk."""
    with (
        TemporaryDirectory(prefix="anneal-pg-") as directory,
        postgres(Path(directory) / "data") as server,
    ):
        yield server


@pytest.fixture
def service_databases(durable_postgres: Postgres) -> dict[str, str]:
    """An empty database for each service that a job needs."""
    return {name: asyncio.run(durable_postgres.empty_database()) for name in SPINE}


@pytest.fixture(scope="session")
def desk(shared_site: Site) -> Generator[World]:
    """Where jobs are handed in and looked after."""
    with Client(shared_site.addresses, environment={}) as client:
        dataset = client.datasets.upload(EXAMPLES, "support").name
        yield World(shared_site, client, dataset)


@pytest.fixture
def tough_desk(
    request: pytest.FixtureRequest, long: bool, tmp_path_factory: pytest.TempPathFactory
) -> Generator[tuple[Site, World]]:
    """The same, or in the long run one apart, on PostgreSQL."""
    if not long:
        yield request.getfixturevalue("site"), request.getfixturevalue("desk")
        return
    databases = request.getfixturevalue("service_databases")
    directory = tmp_path_factory.mktemp("tough")
    with Site(directory, environment=ENVIRONMENT, databases=databases) as site:
        site.start_all("node-a")
        with Client(site.addresses, environment={}) as client:
            dataset = client.datasets.upload(EXAMPLES, "support").name
            yield site, World(site, client, dataset)
