"""What the tools are told: examples, axolotl's configuration, the settings of unsloth's driver."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from services.trainer.backends import axolotl, unsloth
from services.trainer.backends.blueprint import blueprint_of
from services.trainer.backends.limits import check
from services.trainer.backends.recipe import Recipe, write_recipe
from services.trainer.backends.tools import Tool
from services.trainer.engine.errors import InvalidData, InvalidJob
from services.trainer.engine.job import Job
from services.trainer.engine.methods import Adapter, Full, Lora, Prefix, Qlora
from services.trainer.engine.preparation import prepare
from tests.unit.engine.families import save_base_model

MakeJob = Callable[..., Job]
LAYERS = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


def recipe_for(job: Job) -> Recipe:
    return write_recipe(job, prepare(job), blueprint_of(job))


def told_to_axolotl(job: Job) -> dict[str, Any]:
    """The configuration as axolotl reads it."""
    recipe = recipe_for(job)
    _, _, path = axolotl.command("python", job, recipe)
    told = yaml.safe_load(Path(path).read_text())
    assert told == axolotl.settings(job, recipe)
    return told


def told_to_unsloth(job: Job) -> dict[str, Any]:
    _, _, path = unsloth.command("python", job, recipe_for(job))
    return json.loads(Path(path).read_text())


def rows(path: Path) -> list[dict[str, list[int]]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_rows_hold_the_tokens_and_labels_that_the_engine_learns_from(make_job: MakeJob) -> None:
    job = make_job()
    ready, recipe = prepare(job), recipe_for(job)
    assert recipe.held_out_file is not None
    for path, examples in (
        (recipe.rows_file, ready.examples.training),
        (recipe.held_out_file, ready.examples.validation),
    ):
        written = rows(path)
        assert [row["input_ids"] for row in written] == [e.token_ids.tolist() for e in examples]
        labeled = [bytes(label != -100 for label in row["labels"]) for row in written]
        assert labeled == [example.labeled for example in examples]
        for row in written:
            pairs = zip(row["input_ids"], row["labels"], strict=True)
            assert all(label in (token, -100) for token, label in pairs)
            assert row["attention_mask"] == [1] * len(row["input_ids"])


@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_weights_that_labels_cannot_tell_are_refused(
    make_job: MakeJob, tmp_path: Path, weight: float
) -> None:
    told = [
        [
            {"role": "user", "content": f"{number}?", "weight": 0.0},
            {"role": "assistant", "content": "Yes.", "weight": given},
        ]
        for number, given in enumerate((1.0, weight, 1.0))
    ]
    path = tmp_path / "weights.parquet"
    pq.write_table(pa.table({"messages": told}), path)
    with pytest.raises(InvalidData, match="example 1 has a message whose weight is neither 0 nor"):
        recipe_for(make_job(dataset_file=path))


def test_nothing_held_out_is_no_file(make_job: MakeJob) -> None:
    assert recipe_for(make_job({"validation_fraction": 0.0})).held_out_file is None


@pytest.mark.parametrize(
    ("limit", "parts"), [(0, (6, 1)), (1, (1, 6)), (10**6, (6, 1)), ("three", (3, 2))]
)
def test_a_step_is_cut_evenly_into_parts_that_fit(
    make_job: MakeJob, limit: int | str, parts: tuple[int, int]
) -> None:
    longest = max(map(len, prepare(make_job()).examples.training))
    tokens = 5 * longest if limit == "three" else limit  # five would fit, but six is cut by three
    recipe = recipe_for(make_job({"micro_batch_tokens": tokens}))
    assert (recipe.micro_batch, recipe.accumulation) == parts


def test_axolotl_is_told_what_the_job_says(make_job: MakeJob) -> None:
    job = make_job({"schedule": "constant", "learning_rate": 2e-5, "max_grad_norm": 0.0}, seed=-1)
    told = told_to_axolotl(job)
    assert told["base_model"] == str(job.base_model_dir)
    assert (told["max_steps"], told["num_epochs"]) == (12, 2)
    assert (told["micro_batch_size"], told["gradient_accumulation_steps"]) == (6, 1)
    assert told["learning_rate"] == 2e-5
    assert (told["lr_scheduler"], told["warmup_steps"]) == ("constant_with_warmup", 2)
    assert (told["weight_decay"], told["seed"]) == (0.01, 2**32 - 1)
    assert told["max_grad_norm"] == 1e9, "never reached, but told of"
    assert told["save_strategy"] == "no", "not false, as a plain no would be"
    (dataset,) = told["datasets"]
    assert dataset == {"path": told["datasets"][0]["path"], "ds_type": "json", "type": None}
    assert (told["sequence_len"], told["excess_length_strategy"]) == (256, "raise")
    assert told["sample_packing"] is False


@pytest.mark.parametrize(
    ("precision", "expected"),
    [
        ("auto", {"bf16": "auto", "fp16": False}),
        ("bfloat16", {"bf16": True, "fp16": False}),
        ("float32", {"bf16": False, "fp16": False, "tf32": False}),
    ],
)
def test_axolotl_never_takes_float16(
    make_job: MakeJob, precision: str, expected: dict[str, object]
) -> None:
    told = told_to_axolotl(make_job({"precision": precision}))
    assert told | expected == told


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (Full(), {}),
        (
            Lora(rank=4, alpha=8.0, dropout=0.1, dora=True),
            {"adapter": "lora", "lora_r": 4, "lora_alpha": 8, "peft_use_dora": True},
        ),
        (
            Qlora(rank=4, rslora=True),
            {"adapter": "qlora", "load_in_4bit": True, "peft_use_rslora": True},
        ),
        (
            Qlora(double_quantization=False),
            {"bnb_config_kwargs": {"bnb_4bit_use_double_quant": False}},
        ),
        (Qlora(bits=8), {"adapter": "lora", "load_in_8bit": True}),
    ],
)
def test_axolotl_is_told_the_method(
    make_job: MakeJob, method: Full | Lora | Qlora, expected: dict[str, object]
) -> None:
    told = told_to_axolotl(make_job(method=method))
    assert told | expected == told
    assert ("adapter" in told) == (method.kind != "full")
    if method.kind != "full":
        assert told["lora_target_modules"] == LAYERS
        assert told["lora_fan_in_fan_out"] is False


def test_axolotl_is_told_that_gpt2_stores_its_weights_the_other_way(
    make_job: MakeJob, tmp_path: Path
) -> None:
    job = make_job(
        base_model_dir=save_base_model("gpt2", tmp_path / "gpt2", make_job().base_model_dir)
    )
    told = told_to_axolotl(job)
    assert told["lora_fan_in_fan_out"] is True
    assert told["lora_target_modules"] == ["c_attn", "c_fc", "c_proj"]


@pytest.mark.parametrize(
    ("method", "bits"), [(Full(), 16), (Lora(), 16), (Qlora(), 4), (Qlora(bits=8), 8)]
)
def test_unsloth_is_told_the_method(
    make_job: MakeJob, method: Full | Lora | Qlora, bits: int
) -> None:
    told = told_to_unsloth(make_job(method=method))
    model = told["model"]
    assert (model["load_in_4bit"], model["load_in_8bit"]) == (bits == 4, bits == 8)
    assert model["full_finetuning"] == (method.kind == "full")
    assert (told["adapter"] is None) == (method.kind == "full")
    if told["adapter"]:
        assert told["adapter"]["target_modules"] == LAYERS
        assert (told["adapter"]["r"], told["adapter"]["lora_alpha"]) == (8, 16)


def test_activations_are_kept_only_where_the_job_insists(make_job: MakeJob) -> None:
    asked = [make_job({"gradient_checkpointing": mode}) for mode in ("auto", "on", "off")]
    assert [told_to_axolotl(job)["gradient_checkpointing"] for job in asked] == [True, True, False]
    told = [told_to_unsloth(job)["model"]["use_gradient_checkpointing"] for job in asked]
    assert told == ["unsloth", "unsloth", False]


@pytest.mark.parametrize("tool", Tool)
def test_all_that_a_tool_cannot_do_is_refused_by_name_at_once(
    make_job: MakeJob, tool: Tool, tmp_path: Path
) -> None:
    training = {"packing": True, "batch_tokens": 512, "early_stopping_patience": 2}
    job = make_job(
        training,
        method=Prefix(),
        start_from=tmp_path,
        base_model_dir=save_base_model("t5", tmp_path / "t5", make_job().base_model_dir),
    )
    with pytest.raises(InvalidJob) as refused:
        check(job, tool)
    assert {fault.field for fault in refused.value.faults} == {
        "method",
        "base_model_dir",
        "start_from",
        "training.packing",
        "training.batch_tokens",
        "training.early_stopping_patience",
    }
    assert str(refused.value).startswith(f"method: {tool} cannot train by the method prefix")
    assert all("the backend builtin can" in fault.message for fault in refused.value.faults)


@pytest.mark.parametrize(
    ("tool", "method", "field"),
    [
        (Tool.AXOLOTL, Lora(alpha=8.5), "method.alpha"),
        (Tool.AXOLOTL, Adapter(), "method"),
        (Tool.UNSLOTH, Lora(dora=True), "method.dora"),
        (Tool.UNSLOTH, Qlora(double_quantization=False), "method.double_quantization"),
    ],
)
def test_what_one_tool_alone_cannot_do_is_refused_for_it(
    make_job: MakeJob, tool: Tool, method: Any, field: str
) -> None:
    with pytest.raises(InvalidJob) as refused:
        check(make_job(method=method), tool)
    assert [fault.field for fault in refused.value.faults] == [field]


@pytest.mark.parametrize(
    ("tool", "method"),
    [
        (Tool.AXOLOTL, Lora(dora=True)),
        (Tool.AXOLOTL, Qlora(double_quantization=False)),
        (Tool.UNSLOTH, Lora(alpha=8.5)),
        (Tool.UNSLOTH, Qlora(bits=8, double_quantization=False)),
        (Tool.UNSLOTH, Full()),
    ],
)
def test_what_the_other_tool_can_do_is_let_through(
    make_job: MakeJob, tool: Tool, method: Any
) -> None:
    check(make_job(method=method), tool)


def test_a_layer_that_the_model_has_not_is_refused_before_the_tool_starts(
    make_job: MakeJob,
) -> None:
    with pytest.raises(InvalidJob, match=r"method.target_modules: no layer 'W_pack'"):
        blueprint_of(make_job(method=Lora(target_modules=("W_pack",))))
