"""The closed forms of the control plane beside what the engine really has and keeps."""

import json
from array import array
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import pytest
import torch
from torch import Tensor, autograd, nn

from services.registry.adapters.architectures import read_architecture
from services.trainer.control.domain.estimation.activations import Blocks
from services.trainer.control.domain.estimation.architecture import (
    Architecture,
    checked_architecture,
)
from services.trainer.control.domain.estimation.devices import Device, DeviceKind
from services.trainer.control.domain.estimation.parameters import parameters
from services.trainer.control.domain.estimation.precision import arithmetic
from services.trainer.control.domain.estimation.reading import Part
from services.trainer.control.domain.methods import Method
from services.trainer.control.domain.settings import Precision, checked_settings
from services.trainer.engine.batches import Batch, padded, paired
from services.trainer.engine.examples import Example
from services.trainer.engine.job import Job
from services.trainer.engine.loss import label_logits
from services.trainer.engine.methods import Adapter, Full, Lora, Prefix, Qlora, TuningMethod
from services.trainer.engine.model import TunableModel, load_tunable_model
from tests.unit.engine.families import FAMILIES, save_base_model

CPU = Device(DeviceKind.CPU, "cores", 2**34)
ROWS, LENGTH = 3, 160
METHODS: dict[str, TuningMethod] = {
    "full": Full(),
    "lora": Lora(rank=4),
    "some": Lora(rank=4, target_modules=("q_proj", "v_proj")),
    "dora": Lora(rank=4, dora=True),
    "qlora": Qlora(rank=4),
    "qlora8": Qlora(rank=4, bits=8),
    "prefix": Prefix(prefix_length=5),
    "projected": Prefix(prefix_length=5, projection_size=7),
    "pfeiffer": Adapter(adapter_size=8),
    "houlsby": Adapter(adapter_size=8, placement="houlsby"),
}
NOT_COUNTED = ("projected", "qlora8")
"""What a projection keeps does not grow with the tokens; what bitsandbytes keeps for 8 bits,
autograd does not tell of."""


@pytest.fixture(scope="session")
def base_of(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The directory of a family's base model, with dropout where published ones have it."""
    made: dict[str, Path] = {}

    def directory(family: str) -> Path:
        if family not in made:
            made[family] = save_base_model(family, tmp_path_factory.mktemp(family), base_model)
            config = json.loads((made[family] / "config.json").read_text())
            if family == "t5":
                config["dropout_rate"] = 0.1
            (made[family] / "config.json").write_text(json.dumps(config))
        return made[family]

    return directory


def architecture(directory: Path) -> Architecture:
    """As the control plane hears it from the registry."""
    found = read_architecture(directory)
    assert found is not None
    return checked_architecture(asdict(found))


def as_asked(method: TuningMethod) -> Method:
    """The method of the control plane."""
    told = {
        name: value.upper() if name in ("placement", "activation") else value
        for name, value in asdict(method).items()
    }
    return checked_settings({"method": told}).method


def loaded(make_job: Callable[..., Job], directory: Path, method: TuningMethod) -> TunableModel:
    torch.manual_seed(0)
    job = make_job(base_model_dir=directory, method=method)
    return load_tunable_model(job, torch.float32, torch.device("cpu"))


@pytest.mark.parametrize(
    ("family", "name"),
    [(family, name) for family in FAMILIES for name in METHODS if (name, family) != ("some", "t5")],
)
def test_parameters_are_counted_as_the_engine_has_them(
    family: str,
    name: str,
    base_of: Callable[[str], Path],
    make_job: Callable[..., Job],
) -> None:
    method = METHODS[name]
    if name == "some" and family == "gpt2":
        method = Lora(rank=4, target_modules=("c_proj",))
    directory = base_of(family)
    model = loaded(make_job, directory, method)
    counted = parameters(architecture(directory), as_asked(method))

    assert counted.trained == model.trainable_parameters
    assert counted.total == model.total_parameters


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", [name for name in METHODS if name not in NOT_COUNTED])
def test_the_blocks_of_a_llama_keep_what_is_counted(
    name: str, precision: str, base_of: Callable[[str], Path], make_job: Callable[..., Job]
) -> None:
    kept, counted = kept_and_counted(make_job, base_of("llama"), METHODS[name], precision)

    assert counted == pytest.approx(kept, rel=0.1)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["full", "lora", "qlora", "prefix", "pfeiffer"])
@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_the_blocks_of_other_families_keep_about_what_is_counted(
    family: str,
    name: str,
    precision: str,
    base_of: Callable[[str], Path],
    make_job: Callable[..., Job],
) -> None:
    kept, counted = kept_and_counted(make_job, base_of(family), METHODS[name], precision)

    assert counted == pytest.approx(kept, rel=0.1)


def kept_and_counted(
    make_job: Callable[..., Job], directory: Path, method: TuningMethod, precision: str
) -> tuple[float, float]:
    """The bytes of the tensors that autograd keeps of the blocks, weights apart, and the count."""
    dtype = torch.float32 if precision == "float32" else torch.bfloat16
    torch.manual_seed(0)
    job = make_job(base_model_dir=directory, method=method)
    model = load_tunable_model(job, dtype, torch.device("cpu"))
    model.network.train()
    shape = architecture(directory)
    batch = batch_of(shape)
    with Kept(model) as kept, model.arithmetic():
        label_logits(model.network, model.head, batch)
    asked = as_asked(method)
    numbers = arithmetic(asked, Precision(precision.upper()), CPU)
    part = Part(ROWS * LENGTH, LENGTH)
    return kept.size_bytes, Blocks(shape, asked, numbers, CPU).kept_bytes(part)


def batch_of(shape: Architecture) -> Batch:
    ids = array("i", [9] * LENGTH)
    if not shape.is_encoder_decoder:
        return padded([Example(ids, b"\1" * LENGTH)] * ROWS, torch.device("cpu"))
    half = LENGTH // 2
    pair = Example(ids[:half], b"\1" * half, source_ids=ids[half:])
    return paired(0)([pair] * ROWS, torch.device("cpu"))


class Kept:
    """What is saved for the backward pass while a block runs: each piece of memory once, and none
    of a parameter or of its rounded copy."""

    def __init__(self, model: TunableModel) -> None:
        network: Any = model.network
        self._weights = {tuple(sorted(p.shape)) for p in network.parameters()}
        self._known = {p.untyped_storage().data_ptr() for p in network.parameters()}
        self._tensors: list[Tensor] = []  # kept, so that no address comes twice
        self._inside = 0
        self._handles: list[Any] = []
        lists = [m for m in network.modules() if isinstance(m, nn.ModuleList)]
        most = max(sum(p.numel() for p in m.parameters()) for m in lists)
        for blocks in lists:  # an encoder's are fewer than the decoder's
            if sum(p.numel() for p in blocks.parameters()) > most / 2:
                for block in blocks:
                    self._handles += [
                        block.register_forward_pre_hook(self._enter),
                        block.register_forward_hook(self._leave),
                    ]
        self._hooks = autograd.graph.saved_tensors_hooks(self._save, lambda tensor: tensor)

    @property
    def size_bytes(self) -> int:
        return sum(tensor.untyped_storage().nbytes() for tensor in self._tensors)

    def __enter__(self) -> Self:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)
        for handle in self._handles:
            handle.remove()

    def _enter(self, *_: object) -> None:
        self._inside += 1

    def _leave(self, *_: object) -> None:
        self._inside -= 1

    def _save(self, tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        is_weight = tensor.dim() == 2 and tuple(sorted(tensor.shape)) in self._weights
        if self._inside and not is_weight and place not in self._known:
            self._known.add(place)
            self._tensors.append(tensor)
        return tensor
