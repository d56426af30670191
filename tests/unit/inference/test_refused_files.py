"""Files that can not be served, or that nobody should have to trust, are refused and do no harm."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from services.chat.conversation import Conversation, Message, Role
from services.inference.worker.adapters import with_adapter
from services.inference.worker.errors import AdapterUnusable, ModelUnusable, NetworkUnusable
from services.inference.worker.model import ResidentModel
from services.inference.worker.networks import load_network
from services.inference.worker.versions import load_language_model
from tests.unit.inference.conftest import Family

CONVERSATION = Conversation.of(
    Message(Role.USER, "What is red?"),
    Message(Role.ASSISTANT, "A colour.", train=True),
)
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

Families = Callable[[str], Family]
Spoil = Callable[[Path], None]


def with_config(name: str, **fields: Any) -> Spoil:
    def spoil(directory: Path) -> None:
        config = json.loads((directory / name).read_bytes())
        (directory / name).write_text(json.dumps({**config, **fields}))

    return spoil


def with_text(name: str, text: str) -> Spoil:
    return lambda directory: (directory / name).write_text(text) and None


def without(name: str) -> Spoil:
    return lambda directory: (directory / name).unlink()


def with_tensors(name: str, change: Callable[[dict[str, torch.Tensor]], Any]) -> Spoil:
    def spoil(directory: Path) -> None:
        tensors = load_file(directory / name)
        change(tensors)
        save_file(tensors, directory / name, metadata={"format": "pt"})

    return spoil


def pickled(name: str, as_name: str) -> Spoil:
    def spoil(directory: Path) -> None:
        torch.save(load_file(directory / name), directory / as_name)
        (directory / name).unlink()

    return spoil


def longer(tensors: dict[str, torch.Tensor]) -> None:
    name = min(tensors)
    tensors[name] = torch.cat([tensors[name], tensors[name]])


def with_base_weight(tensors: dict[str, torch.Tensor]) -> None:
    tensors["base_model.model.model.norm.weight"] = torch.zeros(32)


ADAPTERS: dict[str, tuple[str, Spoil, str]] = {
    "another kind": ("lora", with_config(ADAPTER_CONFIG, peft_type="IA3"), "kind IA3, not LORA"),
    "PEFT's own prefix": (
        "prefix",
        with_config(ADAPTER_CONFIG, peft_type="PREFIX_TUNING"),
        "kind PREFIX_TUNING",
    ),
    "no kind": ("lora", with_text(ADAPTER_CONFIG, "{}"), "peft_type"),
    "no JSON": ("houlsby", with_text(ADAPTER_CONFIG, "peft"), "Expecting value"),
    "trained biases": ("lora", with_config(ADAPTER_CONFIG, bias="all"), "bias is 'all'"),
    "copied modules": (
        "lora",
        with_config(ADAPTER_CONFIG, modules_to_save=["lm_head"]),
        "modules_to_save",
    ),
    "a start that changes the base": (
        "lora",
        with_config(ADAPTER_CONFIG, init_lora_weights="pissa"),
        "init_lora_weights is 'pissa'",
    ),
    "blocks twice": (
        "lora",
        with_config(ADAPTER_CONFIG, layer_replication=[[0, 2], [0, 2]]),
        "layer_replication",
    ),
    "another module to import": (
        "lora",
        with_config(ADAPTER_CONFIG, megatron_core="antigravity"),
        "megatron_core",
    ),
    "no such layers": (
        "houlsby",
        with_config(ADAPTER_CONFIG, target_modules=["nowhere"]),
        "nowhere",
    ),
    "another shape": ("prefix", with_tensors(ADAPTER_WEIGHTS, longer), "the shape of its"),
    "a tensor too few": ("pfeiffer", with_tensors(ADAPTER_WEIGHTS, dict.popitem), "it has no base"),
    "a weight of the base": (
        "lora",
        with_tensors(ADAPTER_WEIGHTS, with_base_weight),
        "no place for its base_model.model.model.norm.weight",
    ),
    "pickled": ("lora", pickled(ADAPTER_WEIGHTS, "adapter_model.bin"), f"has no {ADAPTER_WEIGHTS}"),
    "no configuration": ("lora", without(ADAPTER_CONFIG), "neither adapter_config.json nor"),
}

WHOLE_MODELS: dict[str, tuple[Spoil, str]] = {
    "code of its own": (
        with_config("config.json", auto_map={"AutoModelForCausalLM": "modeling.Model"}),
        "auto_map",
    ),
    "pickled": (pickled("model.safetensors", "pytorch_model.bin"), "pickled weights are not read"),
    "a weight too few": (
        with_tensors("model.safetensors", lambda tensors: tensors.pop("model.norm.weight")),
        "it has no model.norm.weight",
    ),
    "another shape": (with_tensors("model.safetensors", longer), "can not be loaded"),
    "cut short": (with_text("model.safetensors", "…"), "can not be loaded"),
    "no tokenizer": (without("tokenizer.json"), "tokenizer.json: there is no such file"),
    "another architecture": (with_config("config.json", model_type="nothing"), "nothing"),
    "no object": (with_text("config.json", "[]"), "config.json"),
    "no JSON": (with_text("config.json", "{"), "config.json"),
    "fields of another type": (with_config("config.json", hidden_size="wide"), "hidden_size"),
}


def spoilt(good: Path, spoil: Spoil, tmp_path: Path) -> Path:
    directory = shutil.copytree(good, tmp_path / "spoilt")
    spoil(directory)
    return directory


def require_refusal(base: Family, good: Path, bad: Path, why: str) -> None:
    model = ResidentModel(base.directory)
    before = model.score(None, CONVERSATION)
    for _ in range(2):
        with pytest.raises(ModelUnusable) as caught:
            model.score(str(bad), CONVERSATION)
        assert why in str(caught.value)
        assert str(bad.parent) not in str(caught.value)
        assert model.score(None, CONVERSATION) == before
    assert model.score(str(good), CONVERSATION) != before
    assert model.score(None, CONVERSATION) == before


@pytest.mark.parametrize("how", ADAPTERS)
def test_an_adapter_that_can_not_be_served_is_refused_and_changes_nothing(
    family: Families, tmp_path: Path, how: str
) -> None:
    method, spoil, why = ADAPTERS[how]
    good = family("llama").version(method).directory

    require_refusal(family("llama"), good, spoilt(good, spoil, tmp_path), why)


@pytest.mark.parametrize("how", WHOLE_MODELS)
def test_a_whole_model_that_can_not_be_served_is_refused_and_changes_nothing(
    family: Families, tmp_path: Path, how: str
) -> None:
    spoil, why = WHOLE_MODELS[how]
    good = family("llama").version("full").directory

    require_refusal(family("llama"), good, spoilt(good, spoil, tmp_path), why)


def test_biases_that_peft_trained_on_the_base_are_refused(family: Families, tmp_path: Path) -> None:
    base = load_network(family("gpt2").directory)
    config = LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True, bias="all")
    get_peft_model(base, config).save_pretrained(tmp_path)

    with pytest.raises(AdapterUnusable, match="bias is 'all'"):
        with_adapter(load_network(family("gpt2").directory), tmp_path)


@pytest.mark.parametrize("how", ["code of its own", "pickled"])
def test_a_base_is_not_trusted_either(family: Families, tmp_path: Path, how: str) -> None:
    spoil, why = WHOLE_MODELS[how]

    with pytest.raises(NetworkUnusable, match=why):
        ResidentModel(spoilt(family("llama").directory, spoil, tmp_path))


def test_an_encoder_decoder_needs_a_token_to_start_from(family: Families, tmp_path: Path) -> None:
    spoil = with_config("config.json", decoder_start_token_id=None)

    with pytest.raises(NetworkUnusable, match="decoder_start_token_id"):
        load_language_model(spoilt(family("t5").directory, spoil, tmp_path))
