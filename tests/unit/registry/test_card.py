"""The card is readable, whole, and cannot be broken by what others have named."""

import re
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from services.common.manifest import FileEntry
from services.registry.domain.card import cell, render
from services.registry.domain.models import Lineage, ModelVersion
from services.registry.domain.names import ModelName

HOSTILE = "x | y |\n| <img src=x onerror=alert(1)> | [a](javascript:1) `code` **b**\r\n# Title"


@pytest.fixture
def version() -> ModelVersion:
    return ModelVersion(
        name=ModelName("default", "support").version("v-0123456789abcdef"),
        uid="uid",
        ordinal=3,
        manifest_digest="a" * 64,
        artifacts=(FileEntry("adapter_model.safetensors", 4096, "b" * 64),),
        lineage=Lineage(
            tuning_job="projects/default/tuningJobs/first",
            dataset_version="projects/default/datasets/support/versions/v-1",
            dataset_digest="c" * 64,
            base_model="baseModels/tiny-base",
            base_model_digest="d" * 64,
            method="lora",
            hyperparameters={"learning_rate": 0.0002, "rank": 8, "target_modules": ["q", "v"]},
            code_version="0.1.0",
        ),
        metrics={"validation_loss": 1.25, "best_loss": 0.5},
        create_time=datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
        aliases=("champion",),
    )


def tables(markdown: str) -> list[list[str]]:
    """The cells of every table row outside code, split as GFM splits them."""
    text = re.sub(r"```.*?```", "", markdown, flags=re.DOTALL)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    return [re.split(r"(?<!\\)\|", row)[1:-1] for row in rows]


def test_a_card_holds_all_that_is_known(version: ModelVersion) -> None:
    card = render(version)

    for text in (
        "# support, version 3",
        "Low-rank adapter (LoRA) for baseModels/tiny-base, registered on 2026-01-02 03:04 UTC.",
        "Known as: champion.",
        "| Data | projects/default/datasets/support/versions/v-1 |",
        "| Base model digest | " + "d" * 64 + " |",
        "| learning_rate | 0.0002 |",
        "| target_modules | q, v |",
        "| validation_loss | 1.25 |",
        "| adapter_model.safetensors | 4096 | " + "b" * 64 + " |",
        "anneal model download projects/default/models/support/versions/v-0123456789abcdef",
        'PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), "support-v-012345',
    ):
        assert text in card


def test_a_card_tells_what_was_continued_only_where_something_was(version: ModelVersion) -> None:
    start = "projects/default/models/support/versions/v-1"
    continued = replace(version, lineage=replace(version.lineage, start_version=start))

    assert f"| Continued from | {start} |" in render(continued)
    assert "Continued from" not in render(version)


@pytest.mark.parametrize(
    ("method", "title", "hyperparameters"),
    [
        ("full", "All weights (full fine-tuning)", {}),
        ("lora", "Low-rank adapter (LoRA)", {"rank": 4, "rslora": True}),
        ("qlora", "Low-rank adapter on a quantised base model (QLoRA)", {"bits": 8}),
        ("prefix", "Tuned prefix (prefix tuning)", {"prefix_length": 5}),
        ("adapter", "Bottleneck adapter", {"placement": "houlsby", "activation": "relu"}),
        ("later", "later", {}),
    ],
)
def test_a_card_tells_each_method_and_its_hyperparameters(
    version: ModelVersion, method: str, title: str, hyperparameters: dict[str, object]
) -> None:
    lineage = replace(version.lineage, method=method, hyperparameters=hyperparameters)
    card = render(replace(version, lineage=lineage))

    assert f"\n{title} for baseModels/tiny-base, registered on" in card
    assert f"## Method\n\n{title}\n\n| hyperparameter | value |" in card
    for name, value in hyperparameters.items():
        assert f"\n| {name} | {value} |" in card


def test_a_card_says_how_to_load_what_each_method_made(version: ModelVersion) -> None:
    def use(method: str) -> str:
        lineage = replace(version.lineage, method=method)
        return render(replace(version, lineage=lineage)).partition("## Use")[2]

    whole = use("full")
    assert 'AutoModelForCausalLM.from_pretrained("support-v-0123456789abcdef")' in whole
    assert "peft" not in whole
    for method in ("lora", "qlora"):
        assert "PeftModel" in use(method)
        assert "services" not in use(method)
    for method in ("prefix", "adapter"):
        assert "```python\nimport services.tuners" in use(method)
        assert "PeftModel" in use(method)


def test_hostile_texts_stay_in_their_cells(version: ModelVersion) -> None:
    plain = render(version)
    hostile = render(
        replace(
            version,
            artifacts=(FileEntry("a|b`c.json", 1, "b" * 64),),
            lineage=replace(
                version.lineage,
                code_version=HOSTILE,
                hyperparameters={
                    **version.lineage.hyperparameters,
                    "target_modules": [HOSTILE, "\u2028"],
                },
            ),
            metrics={HOSTILE: 1.0, "best_loss": float("nan")},
        )
    )

    assert [len(row) for row in tables(hostile)] == [len(row) for row in tables(plain)]
    assert hostile.count("\n#") == plain.count("\n#")
    assert not re.search(r"(?<!\\)<", hostile)
    assert "](javascript" not in hostile.replace("\\]", "")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("learning_rate", "learning_rate"),
        ("_x_ *y*", "\\_x\\_ \\*y\\*"),
        ("a\\|b", "a\\\\\\|b"),
        ("tab\there\0", "tab here "),
        (1e-05, "1e-05"),
        (True, "True"),
        (None, "None"),
        ("x" * 600, "x" * 500),
    ],
)
def test_a_cell_is_text(value: str, expected: str) -> None:
    assert cell(value) == expected


@pytest.mark.parametrize("method", ["full", "lora"])
def test_an_encoder_decoder_is_loaded_as_one(version: ModelVersion, method: str) -> None:
    tuned = replace(version, lineage=replace(version.lineage, method=method))
    assert "AutoModelForSeq2SeqLM.from_pretrained" in render(tuned, encoder_decoder=True)
    assert "AutoModelForCausalLM.from_pretrained" in render(tuned)
