"""Which running jobs make room for urgent ones."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from services.trainer.control.domain.job import TuningJob
from services.trainer.control.domain.nodes import Offer
from services.trainer.control.domain.queue.preemption import PATIENCE, victims
from services.trainer.control.domain.queue.requirements import Priority
from services.trainer.control.domain.queue.shares import CREDIT_S, Demand
from services.trainer.control.domain.settings import Backend
from services.trainer.control.domain.states import State
from tests.unit.trainer_control.queue.waiting_jobs import NOW, demand, job, line, share, waiting

URGENT = waiting(line("hasty", Priority.URGENT))


def running(number: int, project: str = "calm", **fields: Any) -> TuningJob:
    began = NOW - timedelta(minutes=number)
    given: dict[str, Any] = {"state": State.RUNNING, "node": f"node-{number}", "claim_time": began}
    return job(project, number, **given | fields)


def chosen(one: Demand, *jobs: TuningJob, **labels: str) -> list[str]:
    offers = {
        f"node-{number}": Offer(
            f"node-{number}", None, frozenset({Backend.BUILTIN}), NOW, labels, free_devices=0
        )
        for number in range(1, 5)
    }
    return [found.name.tuning_job for found in victims(one, jobs, offers, NOW)]


def test_the_job_that_began_last_makes_room() -> None:
    assert chosen(demand(URGENT), running(2), running(1), running(3)) == ["job-1"]


def test_a_job_of_lower_priority_makes_room_before_one_that_began_later() -> None:
    assert chosen(demand(URGENT), running(1), running(3, priority="LOW")) == ["job-3"]


def test_a_job_that_would_lose_its_steps_makes_room_only_if_no_other_can() -> None:
    loses = running(1, priority="LOW", backend="UNSLOTH")

    assert chosen(demand(URGENT), loses, running(2), running(3, priority="HIGH")) == ["job-2"]
    assert chosen(demand(URGENT), loses, running(3, priority="HIGH")) == ["job-3"]
    assert chosen(demand(URGENT), loses) == ["job-1"]


def test_no_job_makes_room_for_anything_but_an_urgent_one() -> None:
    assert chosen(demand(waiting(line("hasty", Priority.HIGH))), running(1)) == []


def test_an_urgent_job_makes_room_for_none() -> None:
    assert chosen(demand(URGENT), running(1, priority="URGENT")) == []


def test_an_urgent_job_first_waits_a_moment_for_a_node_that_is_free() -> None:
    hasty = line("hasty", Priority.URGENT)
    patience_s = PATIENCE.total_seconds()

    assert chosen(demand(waiting(hasty, patience_s - 0.1)), running(1)) == []
    assert chosen(demand(waiting(hasty, patience_s)), running(1)) == ["job-1"]


def test_nobody_else_is_asked_while_one_makes_room_already() -> None:
    assert chosen(demand(URGENT), running(1), running(2, yields=True)) == []


@pytest.mark.parametrize("state", [State.CANCELLING, State.PAUSING])
def test_a_job_that_stops_anyway_is_not_asked(state: State) -> None:
    assert chosen(demand(URGENT), running(1, state=state)) == []


def test_only_a_job_makes_room_whose_node_could_train_the_urgent_one() -> None:
    wanted = waiting(line("hasty", Priority.URGENT, node_labels={"gpu": "h200"}))

    assert chosen(demand(wanted), running(1)) == []
    assert chosen(demand(wanted), running(1), gpu="h200") == ["job-1"]


def test_only_a_job_makes_room_whose_devices_are_enough() -> None:
    wanted = waiting(line("hasty", Priority.URGENT, device_count=2))
    two = running(2, requirements={"device_count": 2})

    assert chosen(demand(wanted), running(1), two) == ["job-2"]


def test_a_job_of_an_unknown_node_is_left_alone() -> None:
    assert chosen(demand(URGENT), running(1, node="gone")) == []


def test_a_project_that_had_its_credit_already_takes_nobodys_place() -> None:
    had = demand(URGENT, shares=(share("hasty", CREDIT_S[Priority.URGENT] + 1),))

    assert chosen(had, running(1)) == []


def test_each_urgent_line_gets_a_job_of_its_own() -> None:
    other = waiting(line("hastier", Priority.URGENT))

    assert sorted(chosen(demand(URGENT, other), running(1), running(2), running(3))) == [
        "job-1",
        "job-2",
    ]


def test_a_project_at_its_limit_takes_nobodys_place() -> None:
    limited = replace(
        demand(URGENT, shares=(share("hasty", max_running_jobs=1),)), running_jobs={"hasty": 1}
    )

    assert chosen(limited, running(1)) == []
