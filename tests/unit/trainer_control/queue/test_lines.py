"""Which waiting jobs stand in the same line."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from services.trainer.control.domain.queue.lines import Line, is_line_of, line_named, line_of
from services.trainer.control.domain.queue.requirements import Priority, Requirements
from services.trainer.control.domain.settings import Backend, JobSettings
from tests.unit.trainer_control.queue.waiting_jobs import line

WORDS = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,20}[A-Za-z0-9])?", fullmatch=True)
LINES = st.builds(
    Line,
    project=st.text(min_size=1, max_size=20),
    priority=st.sampled_from(Priority),
    backend=st.sampled_from(Backend),
    requirements=st.builds(
        Requirements,
        node_labels=st.dictionaries(WORDS, WORDS, max_size=4),
        device_count=st.integers(1, 64),
        device_memory_bytes=st.integers(0, 2**63 - 1),
    ),
    method=st.sampled_from(["", "full", "lora"]),
)


@given(LINES)
def test_the_name_of_a_line_tells_the_line(one: Line) -> None:
    assert line_named(one.key) == one


@given(LINES, LINES)
def test_two_lines_have_the_same_name_only_if_they_are_the_same(one: Line, other: Line) -> None:
    assert (one.key == other.key) == (one == other)


def test_the_order_in_which_labels_were_said_does_not_matter() -> None:
    one = line("p", node_labels={"gpu": "h200", "region": "eu"})
    other = line("p", node_labels={"region": "eu", "gpu": "h200"})

    assert one.key == other.key


def test_a_job_stands_in_the_line_of_its_project_and_demands() -> None:
    settings = JobSettings.model_validate(
        {"method": {"kind": "lora"}, "priority": "HIGH", "requirements": {"device_count": 2}}
    )

    wanted = replace(line("p", Priority.HIGH, device_count=2), method="lora")
    assert line_of("p", settings) == wanted


def test_the_name_that_an_earlier_version_gave_a_line_is_still_its_name() -> None:
    earlier = '["p","NORMAL","BUILTIN",1,0,[["gpu","h200"]]]'

    assert line_named(earlier) == line("p", node_labels={"gpu": "h200"})
    assert line_named(earlier).key == earlier


@given(LINES, st.text(min_size=1, max_size=20))
def test_the_name_of_a_line_tells_whose_it_is(one: Line, other: str) -> None:
    assert is_line_of(one.key, one.project)
    assert is_line_of(one.key, other) == (one.project == other)
