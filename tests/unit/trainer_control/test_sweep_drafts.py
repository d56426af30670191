"""What a sweep is asked for, and whether there are nodes for it."""

from datetime import UTC, datetime
from typing import Any

import pytest

from services.common.faults import InvalidArgument
from services.trainer.control.domain.drafts import Draft, Findings, Specification
from services.trainer.control.domain.estimation.footprint import least_memory
from services.trainer.control.domain.estimation.reading import Examples
from services.trainer.control.domain.nodes import Offer
from services.trainer.control.domain.settings import Backend
from services.trainer.control.domain.sweeps.drafts import SweepDraft, specified
from services.trainer.control.domain.sweeps.sweep import SweepSpec
from tests.contract.trainer_control.world import (
    LLAMA,
    known_base_models,
    known_datasets,
    known_model_versions,
)
from tests.unit.trainer_control.proposals import GIB, gpu, proposal

TRAINING = {"max_steps": 90, "learning_rate": 1e-3}


class Nodes:
    """One, with a GPU of so much memory."""

    def __init__(self, memory_gib: float) -> None:
        self._offer = Offer(
            "node-a",
            gpu(memory_gib),
            frozenset(Backend),
            datetime(2026, 1, 1, tzinfo=UTC),
        )

    async def there(self) -> list[Offer]:
        return [self._offer]


def need_gib(rank: int) -> float:
    of_rank = proposal("lora", TRAINING, model=LLAMA, examples=Examples(300, 0), rank=rank)
    return least_memory(of_rank).total_bytes / GIB


async def sweep(
    memory_gib: float,
    *,
    rank: int = 8,
    training: dict[str, Any] | None = None,
    backend: Backend = Backend.BUILTIN,
    **search: Any,
) -> SweepSpec:
    specification = Specification(
        known_datasets(), known_base_models(), known_model_versions(), Nodes(memory_gib)
    )
    draft = Draft(
        "baseModels/llama",
        "projects/default/datasets/support/versions/latest",
        "",
        {
            "method": {"kind": "lora", "rank": rank},
            "training": training or TRAINING,
            "backend": backend,
        },
    )
    return await specified(specification, "default", SweepDraft(draft, **search), Findings())


async def refused(memory_gib: float, **asked: Any) -> dict[str, str]:
    with pytest.raises(InvalidArgument) as fault:
        await sweep(memory_gib, **asked)
    return {one.field: one.reason for one in fault.value.violations}


async def test_the_largest_rank_has_to_fit() -> None:
    between = (need_gib(8) + need_gib(512)) / 2

    assert await refused(between, ranks=(8, 512, 16)) == {"tuning_sweep.ranks.1": "DOES_NOT_FIT"}
    assert (await sweep(between, ranks=(8, 16))).ranks == (8, 16)


async def test_the_jobs_own_rank_has_to_fit_only_where_it_is_tried() -> None:
    between = (need_gib(8) + need_gib(512)) / 2
    made = await sweep(between, rank=512, ranks=(8,))

    assert made.job.settings.method.model_dump()["rank"] == 512
    assert await refused(between, rank=512) == {"tuning_sweep.tuning_job.method": "DOES_NOT_FIT"}


@pytest.mark.parametrize(
    ("max_steps", "reason"), [(-1, "GREATER_THAN_EQUAL"), (10_000_001, "LESS_THAN_EQUAL")]
)
async def test_a_first_rung_is_not_compared_with_steps_that_can_not_be(
    max_steps: int, reason: str
) -> None:
    training = {"max_steps": max_steps}
    asked = await refused(80, training=training, first_rung_steps=20_000_000)

    assert asked == {"tuning_sweep.tuning_job.training.max_steps": reason}


async def test_what_the_backend_can_not_do_is_refused_for_all_trials() -> None:
    asked = {**TRAINING, "packing": True, "batch_tokens": 512}
    assert await refused(80, training=asked, backend=Backend.AXOLOTL) == {
        "tuning_sweep.tuning_job.training.packing": "BACKEND_LACKS_SETTING",
        "tuning_sweep.tuning_job.training.batch_tokens": "BACKEND_LACKS_SETTING",
    }
    assert await sweep(80, training=asked)
