"""Jobs that are too large for every node that is there."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from services.trainer.control.domain.estimation.devices import Device, DeviceKind
from services.trainer.control.domain.estimation.footprint import least_memory
from services.trainer.control.domain.estimation.reading import Examples
from services.trainer.control.domain.estimation.remedies import in_gib
from services.trainer.control.domain.estimation.sizes import Sizes, too_large
from services.trainer.control.domain.nodes import Offer
from services.trainer.control.domain.settings import Backend, checked_settings
from tests.unit.trainer_control.proposals import GIB, gpu, llama, proposal

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SIZES = Sizes(llama(), 0, Examples(1000, 200.0))
NEED = least_memory(proposal()).total_bytes


def refused(devices: Sequence[Device | None], **method: Any) -> str:
    """Why, or nothing."""
    settings = checked_settings({"method": {"kind": "lora", **method}})
    offers = [
        Offer(f"node-{place}", device, frozenset({Backend.BUILTIN}), NOW)
        for place, device in enumerate(devices)
    ]
    return "".join(one.description for one in too_large(SIZES, settings, offers))


def test_a_job_is_refused_that_none_of_the_nodes_can_train() -> None:
    words = refused([gpu(4), gpu(6), gpu(5)])

    assert words.startswith("no node has the memory for it, the largest 6.0 GiB (a gpu). ")
    assert words.endswith(f"lora needs a device with at least {in_gib(NEED)}")
    assert refused([gpu(4), gpu(80)]) == refused([]) == ""
    assert "the largest 6.0 GiB. " in refused([replace(gpu(6), model="")])


def test_a_node_that_computes_in_narrower_numbers_can_do_with_less() -> None:
    need = NEED / GIB
    cores = Device(DeviceKind.CPU, "cores", round(1.2 * need * GIB))

    assert refused([cores]).startswith("no node has the memory")
    assert refused([cores, gpu(1.01 * need)]) == ""
    assert refused([cores, gpu(0.99 * need)])


@pytest.mark.parametrize("unknown", [None, replace(gpu(), memory_bytes=0)])
def test_beside_a_node_of_which_nothing_is_known_nothing_is_refused(unknown: Device | None) -> None:
    assert refused([gpu(1), unknown]) == ""
    assert refused([unknown]) == ""
