"""A base model as its config describes it, without the numbers in it."""

import json
import struct
from pathlib import Path
from typing import Any

import bitsandbytes
import torch
import transformers
from bitsandbytes import functional as quantization
from torch import nn
from transformers.quantizers.auto import AutoHfQuantizer

from services.trainer.engine.base_model import is_encoder_decoder
from services.trainer.engine.errors import Fault, InvalidJob
from services.trainer.engine.layers import block_lists

_transformers: Any = transformers  # untyped packages
_bitsandbytes: Any = bitsandbytes
_quantization: Any = quantization
_quantizers: Any = AutoHfQuantizer

_QUANTISED = (_bitsandbytes.nn.Linear4bit, _bitsandbytes.nn.Linear8bitLt)
_FILE_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""Those of safetensors."""


def outline(directory: Path, dtype: torch.dtype, quantization_config: Any) -> Any:
    """The model on the meta device, which knows shapes only, its linear layers replaced where
    there is a `quantization_config`. Raises InvalidJob if transformers does not know its kind."""
    auto = (
        _transformers.AutoModelForSeq2SeqLM
        if is_encoder_decoder(directory)
        else _transformers.AutoModelForCausalLM
    )
    try:
        config = _transformers.AutoConfig.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
        with torch.device("meta"):
            base = auto.from_config(config, dtype=dtype)
    except (OSError, ValueError) as error:
        raise InvalidJob(Fault("base_model_dir", f"cannot be loaded: {error}")) from error
    if quantization_config is not None:
        _quantizers.from_config(quantization_config).preprocess_model(base, device_map=None)
    base.config.use_cache = False
    return base


def keep_blocks(base: Any, count: int) -> None:
    """Leaves the first `count` blocks of each stack."""
    for blocks in block_lists(base):
        del blocks[count:]


def file_dtypes(directory: Path) -> set[torch.dtype]:
    """The types of the weights in the directory's files, as far as they are of floating point."""
    found: set[torch.dtype] = set()
    for path in directory.glob("*.safetensors"):
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            header: dict[str, dict[str, Any]] = json.loads(file.read(size))
        found |= {
            _FILE_DTYPES[entry["dtype"]]
            for entry in header.values()
            if entry.get("dtype") in _FILE_DTYPES
        }
    return found


def file_bytes(directory: Path) -> int:
    """Of all weights."""
    return sum(path.stat().st_size for path in directory.glob("*.safetensors"))


def fill(base: nn.Module, device: torch.device, mapped: bool) -> None:
    """Gives every parameter and buffer a shadow for its contents, as loading would. Parameters
    that are `mapped` are the file's own bytes: one piece of memory, alive as long as any of it, in
    the order of their names."""
    found = {
        name: p for name, p in sorted(base.named_parameters()) if not _is_quantised(base, name)
    }
    sizes = {name: p.numel() * p.element_size() for name, p in found.items()}
    file = torch.empty(sum(sizes.values()), dtype=torch.uint8, device=device) if mapped else None
    filled: dict[int, nn.Parameter] = {}
    start = 0
    for name, parameter in found.items():
        if file is None:
            contents = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
        else:
            part = file[start : start + sizes[name]]
            contents = part.view(parameter.dtype).view(parameter.shape)
        start += sizes[name]
        filled[id(parameter)] = nn.Parameter(contents, parameter.requires_grad)
    for module in list(base.modules()):
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) in filled:
                setattr(module, name, filled[id(parameter)])
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype, device=device))
        _fill_quantised(module, device)


def _is_quantised(base: nn.Module, name: str) -> bool:
    path, _, own = name.rpartition(".")
    return own == "weight" and isinstance(base.get_submodule(path), _QUANTISED)


def _fill_quantised(module: Any, device: torch.device) -> None:
    """Quantises a shadow of the weight, which leaves shadows of what bitsandbytes keeps of it. The
    attributes are those of its own parameters, which cannot hold a shadow."""
    if isinstance(module, _bitsandbytes.nn.Linear4bit):
        whole = torch.empty(module.weight.shape, dtype=torch.bfloat16, device=device)
        kind: Any = module.weight
        packed, state = _quantization.quantize_4bit(
            whole,
            blocksize=kind.blocksize,
            compress_statistics=kind.compress_statistics,
            quant_type=kind.quant_type,
            quant_storage=kind.quant_storage,
        )
        known = {
            "blocksize": kind.blocksize,
            "compress_statistics": kind.compress_statistics,
            "quant_type": kind.quant_type,
            "quant_storage": kind.quant_storage,
            "quant_state": state,
            "bnb_quantized": True,
        }
        module.quant_state = state
        module.support_avx512bf16_for_cpu = False  # as the method does
    elif isinstance(module, _bitsandbytes.nn.Linear8bitLt):
        whole = torch.empty(module.weight.shape, dtype=torch.float16, device=device)
        packed, scales, _ = _quantization.int8_vectorwise_quant(whole)
        known = {"CB": packed, "SCB": scales, "has_fp16_weights": False}
        module.state.threshold = 0.0  # which columns would be over it only their contents tell
    else:
        return
    module.weight = nn.Parameter(packed, requires_grad=False)
    module.known_of_weight = known
    _mark(module)


def mark_quantised(network: nn.Module) -> None:
    """Gives quantised weights back what a module's `to` has lost."""
    for module in network.modules():
        if isinstance(module, _QUANTISED):
            _mark(module)


def _mark(module: Any) -> None:
    for name, value in module.known_of_weight.items():
        setattr(module.weight, name, value)
