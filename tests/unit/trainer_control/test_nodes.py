"""What follows from what nodes say of themselves."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from services.trainer.control.domain.estimation.devices import Device, DeviceKind
from services.trainer.control.domain.nodes import Offer, backend_lacking, largest
from services.trainer.control.domain.settings import Backend

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GPU = Device(DeviceKind.CUDA, "NVIDIA H200", 150 * 10**9, 8e14, 5e13)
OFFER = Offer("node-a", GPU, frozenset({Backend.BUILTIN}), NOW)
UNSLOTH = replace(OFFER, node="node-b", backends=frozenset({Backend.BUILTIN, Backend.UNSLOTH}))


def test_what_a_node_says_first_is_news() -> None:
    assert OFFER.says_more_than(None)


@pytest.mark.parametrize(
    "again",
    [
        replace(OFFER, device=None),
        replace(OFFER, device=replace(GPU, float32_flops=6e13)),
        replace(OFFER, backends=UNSLOTH.backends),
        replace(OFFER, time=NOW + timedelta(seconds=60)),
    ],
)
def test_a_change_is_news_and_so_is_that_a_node_is_still_there(again: Offer) -> None:
    assert again.says_more_than(OFFER)


def test_the_same_a_moment_later_is_no_news() -> None:
    assert not replace(OFFER, time=NOW + timedelta(seconds=59)).says_more_than(OFFER)


def test_the_largest_device_is_that_of_most_memory_and_then_of_most_speed() -> None:
    slower = replace(GPU, model="slower", bfloat16_flops=1e14)
    smaller = replace(GPU, memory_bytes=1, bfloat16_flops=9e14)
    offers = [replace(OFFER, device=one) for one in (smaller, slower, GPU, None)]

    assert largest(offers) == GPU
    assert largest(offers[:2]) == slower
    assert largest([replace(OFFER, device=None)]) is None
    assert largest([replace(OFFER, device=replace(GPU, memory_bytes=0))]) is None


@pytest.mark.parametrize("offers", [[], [UNSLOTH], [OFFER, UNSLOTH]])
def test_a_job_may_wait_where_a_node_can_take_it_or_none_is_there(offers: list[Offer]) -> None:
    assert backend_lacking(Backend.UNSLOTH, offers) == []


def test_a_job_that_none_of_the_nodes_can_take_is_refused_with_what_to_do() -> None:
    (violation,) = backend_lacking(Backend.AXOLOTL, [OFFER, UNSLOTH])

    assert (violation.field, violation.reason) == ("tuning_job.backend", "BACKEND_NOT_OFFERED")
    assert "where axolotl is installed" in violation.description
