"""Whose turn it is."""

from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.trainer.control.domain.queue.requirements import Priority
from services.trainer.control.domain.queue.shares import (
    CREDIT_S,
    QUANTUM_S,
    Demand,
    Quota,
    Share,
    due_charge_s,
    settlement_s,
)
from tests.unit.trainer_control.queue.waiting_jobs import NOW, demand, line, share, waiting

PROJECTS = ("a", "b", "c", "d")
DEVICES = 16


def projects_in_turn(one: Demand) -> list[str]:
    return [found.line.project for found in one.turns(NOW)]


def served(one: Demand, devices: int = 1) -> tuple[str, Demand]:
    """Whose turn it was, and the demand after that: everybody goes on waiting."""
    project = one.turns(NOW)[0].line.project
    after = one.share(project).charged(devices * QUANTUM_S, NOW)
    return project, replace(one, shares={**one.shares, project: after})


def test_the_project_that_has_had_least_comes_first() -> None:
    lines = [waiting(line(project)) for project in "ab"]

    assert projects_in_turn(demand(*lines, shares=(share("a", 10), share("b", 5)))) == ["b", "a"]


def test_of_two_that_have_had_the_same_the_one_that_waits_longer_comes_first() -> None:
    lines = waiting(line("a"), for_s=10), waiting(line("b"), for_s=20)

    assert projects_in_turn(demand(*lines)) == ["b", "a"]


def test_within_a_project_a_higher_priority_always_comes_first() -> None:
    lines = [waiting(line("a", priority), for_s=10 - priority.rank) for priority in Priority]

    turns = demand(*lines).turns(NOW)

    assert [one.line.priority for one in turns] == sorted(
        Priority, key=lambda one: one.rank, reverse=True
    )


@pytest.mark.parametrize(("had_s", "first"), [(3599, "hasty"), (3601, "patient")])
def test_high_is_worth_an_hour_of_a_device_and_no_more(had_s: float, first: str) -> None:
    lines = waiting(line("hasty", Priority.HIGH)), waiting(line("patient"))

    assert projects_in_turn(demand(*lines, shares=(share("hasty", had_s),)))[0] == first


def test_a_project_that_nobody_ever_heard_of_has_had_nothing() -> None:
    lines = waiting(line("old")), waiting(line("new"), for_s=1)

    assert projects_in_turn(demand(*lines, shares=(share("old", 1),))) == ["new", "old"]


def test_a_project_at_its_limit_of_running_jobs_has_no_turn() -> None:
    shares = (share("a", max_running_jobs=2),)

    assert projects_in_turn(demand(waiting(line("a")), shares=shares, a=1)) == ["a"]
    assert projects_in_turn(demand(waiting(line("a")), shares=shares, a=2)) == []


def test_a_project_that_has_had_its_hours_of_today_has_a_turn_tomorrow() -> None:
    quota = Quota(max_device_hours_a_day=1)
    used = Share("a", quota).charged(3600, NOW)
    one = demand(waiting(line("a")), shares=(used,))

    assert one.turns(NOW) == []
    assert len(one.turns(NOW + timedelta(days=1))) == 1


def test_what_is_given_back_counts_neither_as_had_nor_as_of_today() -> None:
    once = share("a", weight=2).charged(60, NOW).charged(-20, NOW)

    assert (once.pass_s, once.used_s, once.used_on(NOW)) == (20, 40, 40)


def test_what_is_given_back_after_midnight_makes_no_debt_of_the_new_day() -> None:
    tomorrow = NOW + timedelta(days=1)

    assert share("a").charged(60, NOW).charged(-20, tomorrow).used_on(tomorrow) == 0


def test_who_comes_back_has_had_as_much_as_the_queue_has_come_to() -> None:
    assert share("a", 5).after_joining(30).pass_s == 30
    assert share("a", 35).after_joining(30).pass_s == 35


@pytest.mark.parametrize(("before", "after"), [(0.01, 1.0), (1.0, 0.01), (100, 0.01)])
def test_a_job_costs_its_project_the_same_if_the_weight_changes_while_it_runs(
    before: float, after: float
) -> None:
    come_to = 1_000.0
    charged = share("a", come_to, weight=before).charged(64 * QUANTUM_S, NOW)

    settled = charged.under(Quota(weight=after), come_to).charged(-63 * QUANTUM_S, NOW)

    assert settled.used_s == QUANTUM_S
    assert settled.pass_s == pytest.approx(come_to + QUANTUM_S / after)


def test_a_quota_of_the_same_weight_moves_nobody() -> None:
    behind = share("a", 50, weight=3)

    assert behind.under(Quota(max_running_jobs=1, weight=3), 70).pass_s == pytest.approx(50)


def test_a_credit_brings_the_queue_no_further_and_a_debt_holds_it_back() -> None:
    one = demand(shares=(share("a", 20_000),))

    assert one.virtual_time_s(line("a")) == 20_000
    assert one.virtual_time_s(line("a", Priority.LOW)) == 20_000
    assert one.virtual_time_s(line("a", Priority.HIGH)) == 20_000 - 3_600


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=4))
def test_projects_that_always_wait_get_turns_in_proportion_to_their_weights(
    weights: list[float],
) -> None:
    weight_of = dict(zip(PROJECTS, weights, strict=False))
    shares = tuple(share(project, weight=weight) for project, weight in weight_of.items())
    one = demand(*(waiting(line(project)) for project in weight_of), shares=shares)

    turns: Counter[str] = Counter()
    for _ in range(200):
        project, one = served(one)
        turns[project] += 1
        # Stride scheduling is never more than one turn of each off (Waldspurger and Weihl 1995).
        passes = [one.share(name).pass_s for name in weight_of]
        assert max(passes) - min(passes) <= QUANTUM_S / min(weights) + 1e-6

    assert turns.total() == 200


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_no_project_is_passed_over_for_longer_than_credits_and_a_quantum(
    data: st.DataObject,
) -> None:
    """The bound: each other project gets what lies between the two ranks, and at most one quantum
    more. Here they differ by the credits and by what they have had before."""
    passes = data.draw(st.lists(st.floats(0, 3600), min_size=4, max_size=4))
    weights = data.draw(st.lists(st.floats(0.5, 4), min_size=4, max_size=4))
    priorities = data.draw(st.lists(st.sampled_from(Priority), min_size=4, max_size=4))
    shares = tuple(
        share(project, had, weight=weight)
        for project, had, weight in zip(PROJECTS, passes, weights, strict=True)
    )
    lines = [
        waiting(line(project, priority))
        for project, priority in zip(PROJECTS, priorities, strict=True)
    ]
    one = demand(*lines, shares=shares)
    mine = one.rank("a", priorities[0])
    bound_s = {
        project: max(0.0, mine - one.rank(project, priority)) * weight + DEVICES * QUANTUM_S
        for project, priority, weight in zip(PROJECTS, priorities, weights, strict=True)
    }

    had_s: Counter[str] = Counter()
    while (turn := served(one, DEVICES))[0] != "a":
        project, one = turn
        had_s[project] += round(DEVICES * QUANTUM_S)
        assert had_s[project] <= bound_s[project] + 1e-6

    most = max(CREDIT_S.values()) - min(CREDIT_S.values())
    assert all(had <= (most + 3600) * 4 + DEVICES * QUANTUM_S for had in had_s.values())


@pytest.mark.parametrize(
    ("charged_s", "elapsed_s", "due_s"),
    [(60, 59, 0), (60, 60, 60), (60, 119, 60), (60, 120, 120), (60, 1000, 960)],
)
def test_a_quantum_is_charged_before_it_is_used_also_if_no_beat_came_for_long(
    charged_s: float, elapsed_s: float, due_s: float
) -> None:
    assert due_charge_s(charged_s, timedelta(seconds=elapsed_s), 1) == due_s
    assert due_charge_s(2 * charged_s, timedelta(seconds=elapsed_s), 2) == 2 * due_s


@given(st.lists(st.floats(0, 300), max_size=10), st.integers(1, 8), st.floats(0, 300))
def test_in_the_end_an_attempt_was_charged_for_just_its_time(
    beats_s: list[float], device_count: int, rest_s: float
) -> None:
    charged_s, elapsed_s = QUANTUM_S * device_count, 0.0
    for beat_s in beats_s:
        elapsed_s += beat_s
        charged_s += due_charge_s(charged_s, timedelta(seconds=elapsed_s), device_count)
        assert charged_s >= elapsed_s * device_count - 1e-3
    elapsed_s += rest_s
    charged_s += settlement_s(charged_s, timedelta(seconds=elapsed_s), device_count)

    assert charged_s == pytest.approx(elapsed_s * device_count, abs=1e-3)
