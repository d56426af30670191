"""`client.nodes` and `anneal nodes`."""

import json

import pytest

from anneal.cli.root import run
from anneal.client import Client
from anneal.errors import NotFound
from anneal.trainer.v1.estimate_pb2 import Device
from anneal.trainer.v1.node_lease_service_pb2 import NodeCapabilities
from anneal.trainer.v1.node_service_pb2 import Node
from anneal.trainer.v1.tuning_job_pb2 import BACKEND_AXOLOTL, BACKEND_BUILTIN
from tests.contract.anneal.scripted import World

Captured = pytest.CaptureFixture[str]

COMMAND = pytest.mark.usefixtures("environment")
JOBS = [f"projects/default/tuningJobs/job-{number}" for number in (1, 2)]


@pytest.fixture
def world(world: World) -> World:
    """Two small nodes, and one with all that can be told of one."""
    large = Node(
        name="nodes/node-b",
        state=Node.STATE_READY,
        device=Device(kind=Device.KIND_CUDA, model="NVIDIA H200", memory_bytes=150_000_000_000),
        backends=[BACKEND_BUILTIN, BACKEND_AXOLOTL],
        labels={"region": "eu", "gpu": "h200"},
        capabilities=NodeCapabilities(
            device_count=8,
            engine_count=2,
            driver_version="570.1",
            torch_version="2.13.0",
            tested_methods=["full", "lora"],
            failed_methods=["qlora"],
            code_version="1.2.3",
        ),
        tuning_jobs=JOBS,
    )
    small = [Node(name=f"nodes/node-{one}", state=Node.STATE_GONE) for one in "ac"]
    world.nodes = [small[0], large, small[1]]
    return world


def test_all_nodes_are_listed(client: Client, world: World) -> None:
    assert list(client.nodes.list()) == world.nodes


def test_a_node_is_closed_emptied_and_opened(client: Client) -> None:
    assert client.nodes.cordon("node-a").state == Node.STATE_CORDONED
    assert client.nodes.drain("nodes/node-a").state == Node.STATE_DRAINING
    assert client.nodes.get("node-a").state == Node.STATE_DRAINING
    assert client.nodes.uncordon("node-a").state == Node.STATE_READY
    with pytest.raises(NotFound):
        client.nodes.drain("nobody")


@COMMAND
def test_nodes_are_a_line_each(capsys: Captured) -> None:
    assert run(["nodes", "list"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["node-a", "GONE", "", "0", "", ""]
    devices = "8 × NVIDIA H200 with 150.0 GB"
    assert rows[1][:5] == ["node-b", "READY", devices, "2", "gpu=h200, region=eu"]
    assert run(["nodes", "list", "-o", "json"]) == 0
    assert [one["name"] for one in json.loads(capsys.readouterr().out)] == [
        f"nodes/node-{one}" for one in "abc"
    ]


@COMMAND
def test_a_node_is_shown_with_all_that_it_told(capsys: Captured) -> None:
    assert run(["nodes", "show", "node-b"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [" ".join(line.split()) for line in lines] == [
        "name node-b",
        "state READY",
        "jobs job-1",
        "job-2",
        "side by side up to 2 jobs",
        "devices 8 × NVIDIA H200 with 150.0 GB",
        "labels gpu=h200, region=eu",
        "backends builtin, axolotl",
        "methods full, lora",
        "methods that failed qlora",
        "driver 570.1",
        "torch 2.13.0",
        "code 1.2.3",
    ]
    assert run(["nodes", "show", "nobody"]) == 3


@COMMAND
def test_who_closes_a_node_is_told_what_is_still_on_it(world: World, capsys: Captured) -> None:
    assert run(["nodes", "drain", "node-b"]) == 0
    assert capsys.readouterr().out == "node-b is DRAINING; 2 jobs are still on it\n"
    del world.nodes[1].tuning_jobs[1:]
    assert run(["nodes", "cordon", "node-b"]) == 0
    assert capsys.readouterr().out == "node-b is CORDONED; 1 job is still on it\n"
    assert run(["nodes", "cordon", "node-a"]) == 0
    assert capsys.readouterr().out == "node-a is CORDONED\n"
    assert run(["nodes", "uncordon", "node-b"]) == 0
    assert capsys.readouterr().out == "node-b is READY\n"
    assert run(["nodes", "uncordon", "node-b", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "STATE_READY"
