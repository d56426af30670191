"""deploy/compose.yaml and what it mounts, as far as they can be held to the code without docker."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from services.common import settings
from services.common.auth import KeyRing
from services.common.testing.nats import nats_server_path
from services.registry.adapters.allow_list import read_allow_list
from tests.compose import DEPLOY, Program, compose, programs, read_variables
from tests.configurations import CLIENTS, CONFIGS, variables_of

ROOT = DEPLOY.parent
VARIABLES = {
    "POSTGRES_PASSWORD": "secret",
    "NATS_PASSWORD": "nsecret",
    "S3_ACCESS_KEY": "anneal",
    "S3_SECRET_KEY": "secret",
    "PAGE_SECRET": "00" * 32,
    "SERVICES_KEY": "anneal_services_secret",
    "NODES_KEY": "anneal_nodes_secret",
}
PROGRAMS = {program.name: program for program in programs(VARIABLES)}
STAGE = re.compile(r"^FROM \S+ AS (\w+)$", re.MULTILINE)
COPIED = re.compile(r"^COPY (?!\. )(\S+) ", re.MULTILINE)


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("made") / "secrets"
    subprocess.run(["sh", DEPLOY / "make_secrets.sh", directory], check=True, capture_output=True)
    return directory


def test_every_program_of_the_platform_is_deployed() -> None:
    started = {name: program.command[1:] for name, program in PROGRAMS.items()}
    served = {name: ("serve", name) for name in CONFIGS if name != "node"}
    assert started == {**served, "node": ("node",)}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=lambda program: program.name)
def test_a_service_knows_every_variable_that_it_is_given(program: Program) -> None:
    ours = {name for name in program.environment if name.startswith("ANNEAL_")}
    config = CONFIGS[program.name]
    assert ours - CLIENTS <= set(variables_of(config))
    assert all(isinstance(value, str) for value in program.environment.values())
    settings.read(config, env=program.environment)


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=lambda program: program.name)
def test_an_address_is_where_its_service_listens(program: Program) -> None:
    for variable, address in program.environment.items():
        if found := re.fullmatch(r"ANNEAL_(\w+)_ADDRESS", variable):
            service, _, port = address.partition(":")
            assert service == found[1].lower()
            listen = PROGRAMS[service].environment["ANNEAL_SERVER_LISTEN"]
            assert listen == f"0.0.0.0:{port}"


@pytest.mark.parametrize("name", sorted(set(CONFIGS) - {"node"}))
def test_a_health_check_asks_its_own_service(name: str) -> None:
    program = PROGRAMS[name]
    port = program.environment["ANNEAL_SERVER_LISTEN"].rpartition(":")[2]
    check = program.definition["healthcheck"]["test"]
    assert check == ["CMD", "python", "-P", "-m", "anneal.health", f"localhost:{port}"]
    assert program.definition["ports"] == [f"{port}:{port}"]


def test_what_is_referred_to_is_there() -> None:
    file = compose(VARIABLES)
    for name, service in file["services"].items():
        assert set(service.get("secrets", ())) <= set(file["secrets"]), name
        assert {one["source"] for one in service.get("configs", ())} <= set(file["configs"]), name
        for needed, condition in service.get("depends_on", {}).items():
            assert condition == {"condition": "service_healthy"}
            assert "healthcheck" in file["services"][needed], name
        for volume in service.get("volumes", ()):
            source, _, target = volume.partition(":")
            known = source in file["volumes"] if target else True
            assert known or (DEPLOY / source).exists(), volume
    used = {v.split(":")[0] for s in file["services"].values() for v in s.get("volumes", ())}
    assert set(file["volumes"]) <= used
    for config in file["configs"].values():
        assert (DEPLOY / config["file"]).is_file()


def test_no_program_of_ours_runs_as_root_or_writes_outside_its_volumes() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text("utf-8")
    assert dockerfile.count("\nUSER anneal\n") == 2
    for program in PROGRAMS.values():
        assert program.definition["read_only"]
        assert program.definition["cap_drop"] == ["ALL"]


def test_the_secrets_are_all_that_is_asked_for(secrets: Path) -> None:
    made = read_variables(secrets / "env")
    assert made.keys() == VARIABLES.keys()
    compose(made)
    for secret in compose(VARIABLES)["secrets"].values():
        assert (secrets.parent / secret["file"]).is_file()


def test_the_keys_are_accepted_and_no_more_than_needed(secrets: Path) -> None:
    ring, made = KeyRing.load(secrets / "keys.toml"), read_variables(secrets / "env")
    node = ring.authenticate(f"Bearer {made['NODES_KEY']}")
    service = ring.authenticate(f"Bearer {made['SERVICES_KEY']}")
    admin = ring.authenticate(f"Bearer {(secrets / 'admin.key').read_text()}")
    assert node.permissions == {"nodes.lease"}
    assert not service.may("jobs.write")
    assert admin.may("jobs.write")


def test_secrets_are_not_made_over_others(secrets: Path) -> None:
    again = subprocess.run(["sh", DEPLOY / "make_secrets.sh", secrets], capture_output=True)
    assert again.returncode != 0


def test_the_nats_servers_take_their_configuration() -> None:
    for name in ("nats-1", "nats-2", "nats-3"):
        service = compose(VARIABLES)["services"][name]
        argv = [nats_server_path(), "-t", "-c", DEPLOY / "nats.conf"]
        checked = subprocess.run(
            argv, env=service["environment"], capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0, checked.stderr
        assert service["environment"]["NATS_NAME"] == name
    assert "sync_interval: always" in (DEPLOY / "nats.conf").read_text("utf-8")


def test_each_service_with_rows_has_a_database() -> None:
    made = re.findall(r"CREATE DATABASE (\w+);", (DEPLOY / "databases.sql").read_text("utf-8"))
    named = [
        program.environment["ANNEAL_DATABASE_URL"].rpartition("/")[2]
        for program in PROGRAMS.values()
        if "ANNEAL_DATABASE_URL" in program.environment
    ]
    assert sorted(made) == sorted(named)


def test_the_base_models_are_the_ones_that_are_mounted(tmp_path: Path) -> None:
    text = (DEPLOY / "base-models.toml").read_text("utf-8")
    mounts = dict(volume.split(":")[:2] for volume in PROGRAMS["registry"].definition["volumes"])
    for source, target in mounts.items():
        text = text.replace(f'"{target}"', f'"{(DEPLOY / source).resolve()}"')
    (tmp_path / "base-models.toml").write_text(text)
    assert [str(one.name) for one in read_allow_list(tmp_path / "base-models.toml")]


def test_the_images_are_built_of_what_is_there() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text("utf-8")
    targets = {program.definition["build"]["target"] for program in PROGRAMS.values()}
    assert targets < set(STAGE.findall(dockerfile))
    for source in COPIED.findall(dockerfile):
        assert (ROOT / source).exists()
    for line in (DEPLOY / "Dockerfile.dockerignore").read_text("utf-8").splitlines():
        assert not line.startswith("!") or (ROOT / line[1:]).exists(), line
    node = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    (torch,) = [part for part in node["optional-dependencies"]["node"] if part.startswith("torch")]
    assert f" {torch}\n" in dockerfile


def test_what_holds_torch_is_of_the_node_image() -> None:
    of_node = {
        name
        for name, program in PROGRAMS.items()
        if program.definition["build"]["target"] == "node"
    }
    assert of_node == {"inference", "node"}
