"""An experiment to try things on."""

from datetime import UTC, datetime

import pytest

from services.abtest.domain.experiment import Experiment, State
from services.abtest.domain.names import ExperimentName


@pytest.fixture
def experiment() -> Experiment:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return Experiment(
        name=ExperimentName("default", "support"),
        uid="7b0d8b3e-0000-4000-8000-000000000001",
        state=State.GENERATING,
        baseline="baseModels/tiny-base",
        candidate="projects/default/models/support/versions/v-0123456789abcdef",
        max_output_tokens=256,
        prompt_count=20,
        ready_count=0,
        secret=b"s" * 32,
        error=None,
        create_time=now,
        update_time=now,
    )
