"""Networks of the transformers library, from files that need not be trusted."""

import copy
import json
from pathlib import Path
from typing import Any

import torch
import transformers

from services.inference.worker.errors import NetworkUnusable, cause_without_place

_transformers: Any = transformers  # its auto classes are not typed


def load_network(directory: Path) -> Any:
    """The causal or the encoder–decoder model in `directory`, in float32.

    Nothing that comes with the model is executed: its code is not run, pickles are not read.

    Raises NetworkUnusable if that would be needed, or if a weight is missing.
    """
    _check_files(directory)
    safe: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = _transformers.AutoConfig.from_pretrained(directory, **safe)
        auto = (
            _transformers.AutoModelForSeq2SeqLM
            if config.is_encoder_decoder
            else _transformers.AutoModelForCausalLM
        )
        network, report = auto.from_pretrained(
            directory,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            **safe,
        )
    except Exception as error:  # a config can lead transformers into an error of any kind
        raise NetworkUnusable(cause_without_place(error, directory)) from error
    if report["missing_keys"]:  # they would be random
        raise NetworkUnusable(f"it has no {min(report['missing_keys'])}")
    return network


def sharing_weights(network: Any) -> Any:
    """Another network with the same tensors as weights: what is put into its modules changes
    nothing in the first one, and only that takes memory."""
    tensors = (*network.parameters(), *network.buffers())
    return copy.deepcopy(network, {id(tensor): tensor for tensor in tensors})


def _check_files(directory: Path) -> None:
    try:
        config: object = json.loads((directory / "config.json").read_bytes())
    except FileNotFoundError as error:
        raise NetworkUnusable("config.json: there is no such file") from error
    except ValueError as error:
        raise NetworkUnusable(f"config.json: {error}") from error
    if not isinstance(config, dict) or "auto_map" in config:
        raise NetworkUnusable("its config.json wants code of its own run (auto_map)")
    if not any(directory.glob("*.safetensors")):
        raise NetworkUnusable("it has no *.safetensors file; pickled weights are not read")
