"""Adapters in PEFT's hands: files, several beside one another, switched, removed."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

from services.tuners import BottleneckConfig, PrefixConfig
from tests.unit.tuners.conftest import inputs, logits, randomise

METHODS = {
    "bottleneck": {"adapter_size": 6, "placement": "houlsby", "activation": "silu"},
    "prefix": {"prefix_length": 3},
    "projected prefix": {"prefix_length": 3, "projection_size": 5},
}
CASES = [(method, family) for method in METHODS for family in ("llama", "qwen3", "gpt2", "t5")]

each_case = pytest.mark.parametrize(("method", "family"), CASES)
each_method = pytest.mark.parametrize("method", METHODS)


@pytest.fixture
def attached(tuned: Callable[..., Any]) -> Callable[[str, str], Any]:
    """Makes a family's model with one of the methods, its parameters random."""

    def make(method: str, family: str) -> Any:
        return tuned(method.split()[-1], family, **METHODS[method])

    return make


def again(method: str, family: str) -> PeftConfig:
    kind = BottleneckConfig if method == "bottleneck" else PrefixConfig
    task = "SEQ_2_SEQ_LM" if family == "t5" else "CAUSAL_LM"
    return kind(task_type=task, **METHODS[method])


@each_case
def test_a_saved_adapter_gives_the_same_answers_when_loaded(
    attached: Callable[[str, str], Any],
    base: Callable[..., Any],
    tmp_path: Path,
    method: str,
    family: str,
) -> None:
    model = attached(method, family)
    expected = logits(model, **inputs(family))
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(base(family), tmp_path)
    assert torch.equal(logits(loaded, **inputs(family)), expected)
    assert not any(p.requires_grad for p in loaded.parameters())


@each_case
def test_an_adapter_can_be_loaded_without_drawing_one_first(
    attached: Callable[[str, str], Any],
    base: Callable[..., Any],
    tmp_path: Path,
    method: str,
    family: str,
) -> None:
    model = attached(method, family)
    model.save_pretrained(tmp_path)
    state = torch.get_rng_state()
    whole = base(family)
    torch.set_rng_state(state)
    loaded = PeftModel.from_pretrained(whole, tmp_path, low_cpu_mem_usage=True)
    assert torch.equal(torch.get_rng_state(), state)
    mine, theirs = model.state_dict(), loaded.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    # Close, not equal: tensors that lie as in the file are multiplied in another order.
    torch.testing.assert_close(
        logits(loaded, **inputs(family)), logits(model, **inputs(family)), atol=1e-4, rtol=1e-4
    )


@each_case
def test_a_saved_adapter_can_be_trained_on(
    attached: Callable[[str, str], Any],
    base: Callable[..., Any],
    tmp_path: Path,
    method: str,
    family: str,
) -> None:
    model = attached(method, family)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(base(family), tmp_path, is_trainable=True)
    mine = {name: p for name, p in model.named_parameters() if p.requires_grad}
    theirs = {name: p for name, p in loaded.named_parameters() if p.requires_grad}
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    logits_with_gradient = loaded(**inputs(family)).logits
    logits_with_gradient.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in theirs.values())


@each_case
def test_the_files_hold_the_adapter_alone(
    attached: Callable[[str, str], Any], tmp_path: Path, method: str, family: str
) -> None:
    model = attached(method, family)
    model.save_pretrained(tmp_path)
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {
        path.name for path in tmp_path.iterdir()
    }
    saved = load_file(tmp_path / "adapter_model.safetensors")
    trainable = {
        name.replace(".default", ""): p for name, p in model.named_parameters() if p.requires_grad
    }
    assert saved.keys() == trainable.keys()
    assert all(torch.equal(saved[name], trainable[name]) for name in saved)


@each_method
def test_a_configuration_is_the_same_after_its_json(
    attached: Callable[[str, str], Any], tmp_path: Path, method: str
) -> None:
    model = attached(method, "llama")
    model.save_pretrained(tmp_path / "first")
    text = (tmp_path / "first/adapter_config.json").read_text()
    read = PeftConfig.from_pretrained(tmp_path / "first")
    assert type(read) is type(model.peft_config["default"])
    read.save_pretrained(tmp_path / "second")
    assert (tmp_path / "second/adapter_config.json").read_text() == text
    assert list(json.loads(text)) == sorted(json.loads(text))


def test_targets_that_peft_made_a_set_are_written_in_order() -> None:
    config = PrefixConfig()
    config.target_modules = {"c", "a", "b"}
    assert config.to_dict()["target_modules"] == ["a", "b", "c"]


@pytest.mark.slow
def test_another_process_needs_but_the_import(
    attached: Callable[[str, str], Any], tmp_path: Path
) -> None:
    attached("bottleneck", "llama").save_pretrained(tmp_path / "bottleneck")
    attached("prefix", "llama").save_pretrained(tmp_path / "prefix")
    program = (
        "import peft, services.tuners, sys\n"
        "for path in sys.argv[1:]:\n"
        "    print(type(peft.PeftConfig.from_pretrained(path)).__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "bottleneck"), str(tmp_path / "prefix")],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    assert done.stdout.split() == ["BottleneckConfig", "PrefixConfig"]


@each_case
def test_adapters_stand_beside_one_another_and_are_switched(
    attached: Callable[[str, str], Any], method: str, family: str
) -> None:
    model = attached(method, family)
    first = logits(model, **inputs(family))
    model.add_adapter("second", again(method, family))
    assert torch.equal(logits(model, **inputs(family)), first)
    model.set_adapter("second")
    randomise(model, seed=9)
    second = logits(model, **inputs(family))
    assert not torch.equal(second, first)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert all(".second" in name for name in trained)
    model.set_adapter("default")
    assert torch.equal(logits(model, **inputs(family)), first)
    model.delete_adapter("second")
    assert torch.equal(logits(model, **inputs(family)), first)
    assert not any("second" in name for name in model.state_dict())


@each_case
def test_a_second_adapter_is_loaded_beside_the_first(
    attached: Callable[[str, str], Any], tmp_path: Path, method: str, family: str
) -> None:
    other = attached(method, family)
    randomise(other, seed=8)
    expected = logits(other, **inputs(family))
    other.save_pretrained(tmp_path)
    model = attached(method, family)
    model.load_adapter(tmp_path, "other")
    model.set_adapter("other")
    assert torch.equal(logits(model, **inputs(family)), expected)


@each_case
def test_a_disabled_or_unloaded_adapter_leaves_exactly_the_base(
    attached: Callable[[str, str], Any], base: Callable[..., Any], method: str, family: str
) -> None:
    plain = base(family)
    expected = logits(plain, **inputs(family))
    model = attached(method, family)
    tuned = logits(model, **inputs(family))
    assert not torch.equal(tuned, expected)
    with model.disable_adapter():
        assert torch.equal(logits(model, **inputs(family)), expected)
    assert torch.equal(logits(model, **inputs(family)), tuned)
    unloaded = model.unload()
    assert torch.equal(logits(unloaded, **inputs(family)), expected)
    assert unloaded.state_dict().keys() == plain.state_dict().keys()


@each_method
def test_merging_is_refused_and_changes_nothing(
    attached: Callable[[str, str], Any], method: str
) -> None:
    model = attached(method, "llama")
    before = logits(model, **inputs("llama"))
    for merge in (model.merge_and_unload, model.merge_adapter):
        with pytest.raises(ValueError, match=r"cannot be merged .*unload\(\) removes it"):
            merge()
    assert torch.equal(logits(model, **inputs("llama")), before)


@each_case
def test_a_rebuilt_model_draws_the_same_parameters_from_the_same_seed(
    base: Callable[..., Any], method: str, family: str
) -> None:
    def drawn() -> dict[str, torch.Tensor]:
        model = base(family)
        torch.manual_seed(7)
        network = get_peft_model(model, again(method, family))
        return {name: p for name, p in network.named_parameters() if p.requires_grad}

    first, second = drawn(), drawn()
    assert all(torch.equal(first[name], second[name]) for name in first)
