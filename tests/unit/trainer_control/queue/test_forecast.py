"""When waiting jobs are expected to start, without a database."""

import random
from dataclasses import replace
from datetime import timedelta
from typing import Any

from services.trainer.control.domain.nodes import Offer
from services.trainer.control.domain.queue.experience import Experience, Kind, Past
from services.trainer.control.domain.queue.forecast import (
    STARTS,
    Held,
    Outlook,
    Queued,
    QueuePlace,
    forecast,
)
from services.trainer.control.domain.queue.lines import Line
from services.trainer.control.domain.queue.requirements import Priority
from services.trainer.control.domain.settings import Backend
from tests.unit.trainer_control.queue.waiting_jobs import NOW, line, share

PLAIN = line("p")


def kind(of: Line = PLAIN, work: float = 1.0, method: str = "lora") -> Kind:
    return Kind(of, "baseModels/tiny-base", method, work)


def queued(of: Line = PLAIN, jobs: int = 1) -> Queued:
    known = min(jobs, 50)
    first = tuple((f"{of.project}-{of.priority}-{n}", kind(of)) for n in range(known))
    return Queued(of, jobs, first)


def offers(count: int = 1) -> tuple[Offer, ...]:
    backends = frozenset({Backend.BUILTIN})
    return tuple(Offer(f"node-{number}", None, backends, NOW) for number in range(count))


def took(seconds: float, of: Kind | None = None) -> Past:
    return Past(of or kind(), NOW - timedelta(hours=2), seconds)


def outlook(*waiting: Queued, **fields: Any) -> Outlook:
    given: dict[str, Any] = {
        "now": NOW,
        "queued": waiting,
        "held": (),
        "offers": offers(),
        "shares": {},
        "past": tuple(took(100.0) for _ in range(10)),
        "came": (),
    }
    return Outlook(**given | fields)


def busy(eta_s: float | None = 50.0, elapsed_s: float = 10.0, of: Line = PLAIN) -> Held:
    return Held("node-0", kind(of), elapsed_s, eta_s)


def seconds(place: QueuePlace) -> tuple[float, float]:
    assert place.earliest is not None
    assert place.latest is not None
    return (place.earliest - NOW).total_seconds(), (place.latest - NOW).total_seconds()


def test_with_a_free_node_the_first_starts_at_once_and_the_next_behind_it() -> None:
    found = forecast(outlook(queued(jobs=3)))

    assert [seconds(found.place(PLAIN, index)) for index in range(3)] == [
        (0, 0),
        (100, 100),
        (200, 200),
    ]
    assert [found.place(PLAIN, index).position for index in range(3)] == [1, 2, 3]


def test_with_two_nodes_two_start_at_a_time() -> None:
    found = forecast(outlook(queued(jobs=3), offers=offers(2)))

    assert [seconds(found.place(PLAIN, index))[0] for index in range(3)] == [0, 0, 100]


def test_a_running_job_is_believed_nearly_to_the_second() -> None:
    earliest, latest = seconds(forecast(outlook(queued(), held=(busy(),))).place(PLAIN, 0))

    assert 35 < earliest < 50 < latest < 65


def test_a_running_job_that_says_nothing_takes_as_long_as_others_that_lasted_so_long() -> None:
    past = tuple(took(duration) for duration in (5.0, 5.0, 5.0, 5.0, 5.0, 90.0, 90.0, 90.0))

    place = forecast(outlook(queued(), held=(busy(None),), past=past)).place(PLAIN, 0)

    assert seconds(place) == (80, 80)


def test_a_job_of_twice_the_work_is_expected_to_take_twice_as_long() -> None:
    heavy = Queued(PLAIN, 2, (("first", kind(work=2.0)), ("second", kind())))

    assert seconds(forecast(outlook(heavy)).place(PLAIN, 1)) == (200, 200)


def test_urgent_ones_go_first_and_projects_take_turns() -> None:
    urgent, other = line("q", Priority.URGENT), line("r")
    found = forecast(outlook(queued(jobs=2), queued(urgent), queued(other)))

    assert found.place(urgent, 0).position == 1
    assert {found.place(PLAIN, 0).position, found.place(other, 0).position} == {2, 3}
    assert found.place(PLAIN, 1).position == 4


def test_a_project_that_has_had_much_comes_later() -> None:
    other = line("q")
    shares = {"p": share("p", 500), "q": share("q", 0)}
    found = forecast(outlook(queued(), queued(other, 3), shares=shares))

    assert found.place(PLAIN, 0).position == 4


def test_a_project_at_its_limit_waits_for_its_own_jobs() -> None:
    limited = {"p": share("p", max_running_jobs=1)}
    found = forecast(outlook(queued(), held=(busy(),), offers=offers(2), shares=limited))

    assert seconds(found.place(PLAIN, 0))[0] > 30


def test_what_came_of_late_is_expected_to_come_again_and_moves_starts_back() -> None:
    hasty = line("q", Priority.URGENT)
    fields: dict[str, Any] = {"held": (busy(100.0),), "came": (kind(hasty),) * 60}
    alone = forecast(outlook(queued(jobs=3), held=(busy(100.0),))).place(PLAIN, 2)
    beside = forecast(outlook(queued(jobs=3), **fields)).place(PLAIN, 2)

    assert seconds(beside)[1] > seconds(alone)[1]


def test_what_is_far_behind_goes_on_at_the_pace_of_its_line() -> None:
    found = forecast(outlook(queued(jobs=10 * STARTS)), draws=3)

    earliest, latest = seconds(found.place(PLAIN, 10 * STARTS - 1))
    assert 0.9 < earliest / (1000 * STARTS) <= latest / (1000 * STARTS) < 1.1


def test_a_line_that_no_node_can_serve_has_a_position_and_no_time() -> None:
    elsewhere = line("q", node_labels={"gpu": "h200"})
    found = forecast(outlook(queued(), queued(elsewhere)))

    assert found.place(elsewhere, 0) == QueuePlace(2)


def test_nothing_is_told_of_times_where_no_job_has_ended_or_no_node_is_there() -> None:
    assert forecast(outlook(queued(), past=())).place(PLAIN, 4) == QueuePlace(5)
    assert forecast(outlook(queued(), offers=())).place(PLAIN, 4) == QueuePlace(5)


def test_the_same_outlook_gives_the_same_forecast() -> None:
    past = tuple(took(float(duration)) for duration in range(10, 100, 7))
    one = outlook(queued(jobs=30), held=(busy(),), past=past, came=(kind(),) * 20)

    assert forecast(one) == forecast(replace(one))


def test_the_nearest_kin_counts_where_there_is_enough_of_it() -> None:
    near, far = kind(method="lora"), kind(line("q"), method="full")
    known = Experience(
        [*(took(10.0, near) for _ in range(8)), *(took(99.0, far) for _ in range(9))]
    )

    assert set(known.rates(near)) == {10.0}
    assert set(known.rates(kind(line("r"), method="lora"))) == {10.0}
    assert set(known.rates(kind(line("r"), method="prefix"))) == {10.0, 99.0}


def test_an_attempt_that_outlasts_all_others_goes_on_for_as_long_as_it_has_in_measure() -> None:
    left = Experience([took(10.0)]).left_s(kind(), 1000.0, random.Random(1))

    assert 0 < left < 20_000
