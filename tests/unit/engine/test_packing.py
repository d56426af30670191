"""Packing: refused before the first step where a model lets examples see their neighbours."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BioGptConfig,
    BloomConfig,
    FalconConfig,
    FalconMambaConfig,
    MambaConfig,
    MptConfig,
    OpenAIGPTConfig,
    OPTConfig,
    PreTrainedConfig,
    PreTrainedModel,
    RwkvConfig,
    XGLMConfig,
)

from services.trainer.control.domain.combinations import LEAKING_FAMILIES
from services.trainer.engine.errors import InvalidJob
from services.trainer.engine.events import Event
from services.trainer.engine.job import Job
from services.trainer.engine.methods import Adapter, Full, Lora, Prefix, TuningMethod
from services.trainer.engine.model import TunableModel, load_tunable_model
from services.trainer.engine.packing import require_separation
from tests.unit.engine.families import gpt2, llama, save_base_model

CPU = torch.device("cpu")


SIZES = {"vocab_size": 320, "num_hidden_layers": 2}
WIDTH = {"hidden_size": 32}
HEADS = {"num_attention_heads": 4}
NEW_FALCON = {"new_decoder_architecture": True, "num_kv_heads": 2}
BLOOM = BloomConfig(**SIZES, **WIDTH, **HEADS)
MAMBA = MambaConfig(**SIZES, **WIDTH)
OPT = OPTConfig(
    **SIZES, **WIDTH, **HEADS, ffn_dim=64, max_position_embeddings=64, word_embed_proj_dim=32
)
LEAKING = [
    BLOOM,
    MAMBA,
    OPT,
    BioGptConfig(**SIZES, **WIDTH, **HEADS, intermediate_size=64, max_position_embeddings=64),
    FalconConfig(**SIZES, **WIDTH, **HEADS),
    FalconConfig(**SIZES, **WIDTH, **HEADS, alibi=True),
    FalconConfig(**SIZES, **WIDTH, **HEADS, **NEW_FALCON),
    FalconMambaConfig(**SIZES, **WIDTH),
    MptConfig(vocab_size=320, d_model=32, n_layers=2, n_heads=4, max_seq_len=64),
    OpenAIGPTConfig(vocab_size=320, n_embd=32, n_layer=2, n_head=4, n_positions=64),
    RwkvConfig(**SIZES, **WIDTH, attention_hidden_size=32, context_length=64),
    XGLMConfig(
        vocab_size=320,
        d_model=32,
        ffn_dim=64,
        num_layers=2,
        attention_heads=4,
        max_position_embeddings=64,
    ),
]


def model_of(config: PreTrainedConfig) -> PreTrainedModel:
    return AutoModelForCausalLM.from_config(config)


Family = Callable[[], PreTrainedModel]
Loaded = Callable[..., TunableModel]


@pytest.fixture
def loaded(make_job: Callable[..., Job], tmp_path: Path) -> Loaded:
    def load(
        family: Family, dtype: torch.dtype = torch.float32, method: TuningMethod | None = None
    ) -> TunableModel:
        torch.manual_seed(0)
        family().save_pretrained(tmp_path / "family")
        job = make_job(method=method or Full(), base_model_dir=tmp_path / "family")
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


@pytest.mark.parametrize("method", [Lora(), Prefix(), Adapter()], ids=lambda method: method.kind)
@pytest.mark.parametrize("family", [llama, gpt2])
def test_no_method_lets_examples_see_each_other(
    loaded: Loaded, family: Family, method: TuningMethod
) -> None:
    model = loaded(family, method=method)
    for parameter in model.trainable.values():
        torch.nn.init.normal_(parameter, std=0.3)
    require_separation(model)


def test_the_families_that_control_refuses_are_tried_here() -> None:
    assert {config.model_type for config in LEAKING} == LEAKING_FAMILIES


@pytest.mark.parametrize(
    ("config", "dtype"),
    [(config, torch.float32) for config in LEAKING]
    + [(config, torch.bfloat16) for config in (BLOOM, MAMBA, OPT)],
    ids=lambda one: getattr(one, "model_type", one),
)
def test_families_that_let_examples_see_each_other_are_refused(
    loaded: Loaded, config: PreTrainedConfig, dtype: torch.dtype
) -> None:
    with pytest.raises(InvalidJob, match="would see those packed before it") as refused:
        require_separation(loaded(lambda: model_of(config), dtype))

    assert [fault.field for fault in refused.value.faults] == ["training.packing"]


def test_a_run_is_refused_before_its_first_event(
    make_job: Callable[..., Job],
    run_here: Callable[[Job], list[Event]],
    base_model: Path,
    tmp_path: Path,
) -> None:
    directory = save_base_model("gpt2", tmp_path / "base", base_model)
    model_of(OPT).save_pretrained(directory)
    settings = {"max_steps": 1, "validation_fraction": 0.0}
    job = make_job({**settings, "packing": True}, method=Full(), base_model_dir=directory)

    with pytest.raises(InvalidJob, match="would see those packed before it"):
        run_here(job)
