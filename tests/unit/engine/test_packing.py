"""Packing: refused before the first step where a model lets examples see their neighbours."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
)

from services.trainer.engine.errors import InvalidJob
from services.trainer.engine.events import Event
from services.trainer.engine.job import Job
from services.trainer.engine.methods import Full
from services.trainer.engine.model import TunableModel, load_tunable_model
from services.trainer.engine.packing import require_separation
from tests.unit.engine.families import gpt2, llama, save_base_model

CPU = torch.device("cpu")


def opt() -> PreTrainedModel:
    config = OPTConfig(
        vocab_size=320,
        hidden_size=32,
        ffn_dim=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        word_embed_proj_dim=32,
    )
    return OPTForCausalLM(config)


def bloom() -> PreTrainedModel:
    return BloomForCausalLM(BloomConfig(vocab_size=320, hidden_size=32, n_layer=2, n_head=4))


def mamba() -> PreTrainedModel:
    return MambaForCausalLM(MambaConfig(vocab_size=320, hidden_size=32, num_hidden_layers=2))


Family = Callable[[], PreTrainedModel]
Loaded = Callable[[Family, torch.dtype], TunableModel]


@pytest.fixture
def loaded(make_job: Callable[..., Job], tmp_path: Path) -> Loaded:
    def load(family: Family, dtype: torch.dtype) -> TunableModel:
        torch.manual_seed(0)
        family().save_pretrained(tmp_path / "family")
        job = make_job(method=Full(), base_model_dir=tmp_path / "family")
        return load_tunable_model(job, dtype, CPU)

    return load


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", [llama, gpt2])
def test_families_that_keep_examples_apart_are_packed(
    loaded: Loaded, family: Family, dtype: torch.dtype
) -> None:
    model = loaded(family, dtype)
    model.network.train()
    torch.manual_seed(5)
    before = torch.get_rng_state()

    require_separation(model)

    assert torch.equal(torch.get_rng_state(), before)
    assert model.network.training


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", [opt, bloom, mamba])
def test_families_that_let_examples_see_each_other_are_refused(
    loaded: Loaded, family: Family, dtype: torch.dtype
) -> None:
    with pytest.raises(InvalidJob, match="would see those packed before it") as refused:
        require_separation(loaded(family, dtype))

    assert [fault.field for fault in refused.value.faults] == ["training.packing"]


def test_a_run_is_refused_before_its_first_event(
    make_job: Callable[..., Job],
    run_here: Callable[[Job], list[Event]],
    base_model: Path,
    tmp_path: Path,
) -> None:
    directory = save_base_model("gpt2", tmp_path / "base", base_model)
    opt().save_pretrained(directory)
    settings = {"max_steps": 1, "validation_fraction": 0.0}
    job = make_job({**settings, "packing": True}, method=Full(), base_model_dir=directory)

    with pytest.raises(InvalidJob, match="would see those packed before it"):
        run_here(job)
