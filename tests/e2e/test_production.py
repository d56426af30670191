"""deploy/compose.yaml without containers: its commands and its environment, on this machine.

PostgreSQL, an S3 server and a NATS cluster of three are real; TLS, keys and permissions are as
deployed; trainer control runs twice. Only addresses and directories differ, and what takes time.
"""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from anneal import Addresses, Client
from anneal.errors import AnnealError
from anneal.inference.v1.inference_service_pb2 import SamplingParameters
from anneal.trainer.v1.tuning_job_pb2 import TrainingParameters, TuningJob
from anneal.transport import Tls
from anneal.up.platform import Silence
from anneal.up.ports import Ports
from anneal.up.supervisor import Program, Supervisor
from services.common.testing.free_port import free_port
from services.common.testing.nats import NatsCluster, nats_cluster
from services.common.testing.postgres import Postgres
from services.common.testing.s3 import make_bucket
from tests import compose

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

EXAMPLES = compose.DEPLOY.parent / "examples"
STEPS = 6
TRAINING = TrainingParameters(
    max_steps=STEPS, batch_size=4, max_sequence_tokens=128, checkpoint_every=3
)
HERE = {
    "ANNEAL_DIE_WITH_PARENT": "1",
    "ANNEAL_SELF_TEST_LIMIT_S": "0",
    "ANNEAL_WARM_ENGINES": "0",
    "ANNEAL_SPEED_LIMIT_S": "0",
    "OMP_NUM_THREADS": "1",
}
SHORT = SamplingParameters(max_output_tokens=8)
PATIENCE_S = 120.0
SECOND = "trainer-2"
"""The other trainer control, which the node calls; clients call the first."""


@dataclass(frozen=True)
class Here:
    """This machine: where the file's hosts are on it, and their databases."""

    ports: Ports
    elsewhere: Mapping[str, str]
    databases: Mapping[str, str]
    home: Path

    def program(self, one: compose.Program) -> Program:
        directories = self.home / one.name
        targets = [volume.split(":")[-1] for volume in one.definition.get("volumes", ())]
        for target in targets:
            (directories / target[1:]).mkdir(parents=True, exist_ok=True)
        told = {
            variable: str(directories / value[1:]) if value in targets else self.moved(value)
            for variable, value in one.environment.items()
        }
        kept = {"PATH": os.environ["PATH"], **HERE}
        argv = (sys.executable, "-m", "anneal.cli", *one.command[1:])
        check = [self.moved(part) for part in one.definition.get("healthcheck", {}).get("test", ())]
        return Program(
            one.name, argv, {**kept, **told}, lambda: succeeds(check, told), stage=int(not check)
        )

    def moved(self, text: str) -> str:
        """The text with this machine's addresses."""
        if text.startswith("postgresql"):
            return self.databases[text.rpartition("/")[2]]
        places = dict(self.elsewhere)
        for number, name in enumerate(("dataset", "trainer", "registry", "inference", "abtest"), 1):
            port = getattr(self.ports, name)
            places[f"0.0.0.0:740{number}"] = f"127.0.0.1:{port}"
            for host in (name, "localhost"):
                places[f"{host}:740{number}"] = f"localhost:{port}"
        return re.sub("|".join(map(re.escape, places)), lambda found: places[found[0]], text)


class Printing(Silence):
    """What the programs say is told with a test that fails."""

    def line(self, name: str, text: str) -> None:
        print(f"{name}: {text}")


def succeeds(check: list[str], environment: Mapping[str, str]) -> bool:
    """Whether a health check does; a program that has none is ready when it runs."""
    if not check:
        return True
    kind, python, *arguments = check
    assert (kind, python) == ("CMD", "python")
    port = int(check[-1].rpartition(":")[2])
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:  # found out sooner than by a check
        return False
    argv = [sys.executable, *arguments]
    return subprocess.run(argv, env=environment, capture_output=True).returncode == 0


@dataclass(frozen=True)
class Deployment:
    """The programs of the file, and how whoever runs them reaches them."""

    supervisor: Supervisor
    addresses: Addresses
    secrets: Path

    @property
    def admin_key(self) -> str:
        return (self.secrets / "admin.key").read_text()

    def client(self, key: str | None) -> Client:
        tls = Tls(ca_file=self.secrets / "ca.pem")
        return Client(self.addresses, api_key=key, tls=tls, environment={})

    def kill(self, name: str) -> None:
        os.kill(self.supervisor.pids()[name], signal.SIGKILL)


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("made") / "secrets"
    argv = ["sh", compose.DEPLOY / "make_secrets.sh", directory]
    subprocess.run(argv, check=True, capture_output=True)
    return directory


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, secrets: Path) -> Generator[NatsCluster]:
    password = compose.read_variables(secrets / "env")["NATS_PASSWORD"]
    with nats_cluster(tmp_path_factory.mktemp("nats"), password) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def deployment(
    tmp_path_factory: pytest.TempPathFactory,
    secrets: Path,
    cluster: NatsCluster,
    postgres_server: Postgres,
    s3: Any,
) -> Generator[Deployment]:
    home = tmp_path_factory.mktemp("home")
    make_bucket(s3, "anneal")
    elsewhere = {
        "http://s3:7070": s3["endpoint"],
        "/run/secrets": str(secrets),
        "/etc/anneal/base-models.toml": str(base_models(home)),
        **{f"nats-{n}:4222": f"127.0.0.1:{s.port}" for n, s in enumerate(cluster.servers, start=1)},
    }
    databases = {
        name: asyncio.run(postgres_server.empty_database())
        for name in ("dataset", "trainer", "registry", "abtest")
    }
    here = Here(Ports.free(), elsewhere, databases, home)
    supervisor = Supervisor(list(programs(here, secrets)), Printing())
    supervisor.start()
    try:
        yield Deployment(supervisor, here.ports.addresses(), secrets)
    finally:
        supervisor.stop()


def programs(here: Here, secrets: Path) -> Iterator[Program]:
    """All of the file, and a second trainer control, which the node calls instead."""
    beside = replace(here, ports=replace(here.ports, trainer=free_port()))
    for one in compose.programs(compose.read_variables(secrets / "env")):
        yield (beside if one.name == "node" else here).program(one)
        if one.name == "trainer":
            yield beside.program(replace(one, name=SECOND))


def base_models(home: Path) -> Path:
    """The allow-list that is mounted, with the model where it is on this machine."""
    text = (compose.DEPLOY / "base-models.toml").read_text("utf-8")
    file = home / "base-models.toml"
    file.write_text(text.replace("/models/tiny-base", str(EXAMPLES / "tiny-base")))
    return file


def test_a_job_outlives_a_control_plane_and_the_leader_of_the_bus(
    deployment: Deployment, cluster: NatsCluster
):
    with deployment.client(deployment.admin_key) as client:
        dataset = client.datasets.upload(EXAMPLES / "support.jsonl", "support")
        job = client.jobs.create(dataset.name, "tiny-base", training=TRAINING, job_id="first")
        events = []
        for event in client.jobs.watch(job.name, timeout_s=PATIENCE_S):
            events.append(event)
            if event.step.step == 1:
                deployment.kill(SECOND)
                cluster.leader("ANNEAL").kill()
        ended = client.jobs.get(job.name)
        assert ended.state == TuningJob.STATE_SUCCEEDED, ended.error
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        steps = [event.step.step for event in events if event.HasField("step")]
        assert sorted(set(steps)) == list(range(1, STEPS + 1))

        client.models.wait_for_version(ended.model_version, timeout_s=PATIENCE_S)
        (version,) = client.models.versions(job.model)
        assert version.name == ended.model_version
        answer = client.inference.generate(version.name, "Where is my parcel?", sampling=SHORT)
        assert answer.text


def test_the_doctor_finds_every_service(deployment: Deployment):
    told = {
        **deployment.addresses.to_environment(),
        "ANNEAL_TLS_CA": str(deployment.secrets / "ca.pem"),
        "ANNEAL_API_KEY": deployment.admin_key,
    }
    argv = [sys.executable, "-m", "anneal.cli", "doctor", "--remote"]
    found = subprocess.run(argv, env=told, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
    assert found.stdout.count("serving") == 5


def test_only_a_key_with_the_permission_opens_a_service(deployment: Deployment):
    keys = {
        "API_KEY_MISSING": None,
        "API_KEY_INVALID": "anneal_admin_" + "0" * 64,
        "PERMISSION_MISSING": compose.read_variables(deployment.secrets / "env")["NODES_KEY"],
    }
    for reason, key in keys.items():
        with deployment.client(key) as client, pytest.raises(AnnealError) as refused:
            list(client.datasets.list())
        assert refused.value.reason == reason
