"""`client.quotas` and `anneal quota`."""

import json

import pytest

from anneal.cli.root import run
from anneal.client import Client
from anneal.trainer.v1.queue_service_pb2 import Quota
from tests.contract.anneal.scripted import World

Captured = pytest.CaptureFixture[str]

COMMAND = pytest.mark.usefixtures("environment")


@pytest.fixture
def world(world: World) -> World:
    world.quota = Quota(
        max_running_jobs=4,
        weight=1,
        running_jobs=3,
        queued_jobs=1200,
        device_hours_today=1.5,
        device_hours=1234.5,
    )
    return world


@pytest.mark.parametrize(
    ("project", "name"),
    [
        ("", "projects/default/quota"),
        ("support", "projects/support/quota"),
        ("projects/support", "projects/support/quota"),
        ("projects/support/quota", "projects/support/quota"),
    ],
)
def test_a_quota_goes_by_its_project(client: Client, project: str, name: str) -> None:
    assert client.quotas.get(project).name == name


def test_what_is_not_given_stays_as_it_is(client: Client, world: World) -> None:
    changed = client.quotas.set("support", max_running_jobs=0, weight=2.5)
    assert (changed.max_running_jobs, changed.weight, changed.queued_jobs) == (0, 2.5, 1200)
    (request,) = world.requests("UpdateQuota")
    assert list(request.update_mask.paths) == ["max_running_jobs", "weight"]
    assert request.quota.name == "projects/support/quota"


def test_nothing_is_set_where_nothing_is_given(client: Client, world: World) -> None:
    assert client.quotas.set("support").max_running_jobs == 4
    assert world.requests("UpdateQuota") == []


@COMMAND
def test_a_quota_is_shown_with_what_was_taken(world: World, capsys: Captured) -> None:
    assert run(["--project", "support", "quota", "show"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "project support",
        "weight 1",
        "running jobs 3 of 4",
        "queued jobs 1,200, no limit",
        "device-hours today 1.50, no limit",
        "device-hours in all 1,234.50",
    ]


@COMMAND
def test_a_quota_is_set(world: World, capsys: Captured) -> None:
    options = "--max-running-jobs 8 --max-queued-jobs 2000 --max-device-hours-a-day 24 --weight 2"
    assert run(["quota", "set", "support", *options.split(), "-o", "json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["max_running_jobs"], answer["max_queued_jobs"]) == (8, 2000)
    assert (answer["max_device_hours_a_day"], answer["weight"]) == (24, 2)
    assert run(["quota", "show", "support"]) == 0
    assert "1.50 of 24.00" in capsys.readouterr().out


@COMMAND
def test_a_number_that_no_field_holds_is_refused(world: World, capsys: Captured) -> None:
    assert run(["quota", "set", "support", "--max-queued-jobs", "99999999999"]) == 2
    assert "out of range: 99999999999" in capsys.readouterr().err
    assert world.calls == []


@COMMAND
def test_who_sets_nothing_is_asked_what(world: World, capsys: Captured) -> None:
    assert run(["quota", "set", "support"]) == 2
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert "say what to set: --max-running-jobs," in said
    assert world.calls == []
