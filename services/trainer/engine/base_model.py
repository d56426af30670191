"""The base model's directory: what is in it, and the model itself."""

import hashlib
import json
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from safetensors import SafetensorError

from services.trainer.engine.errors import Fault, InvalidJob, is_out_of_memory

_transformers: Any = transformers  # its auto classes are not typed


def base_model_digest(directory: Path) -> str:
    """A sha256 over the names and contents of the files that make up the base model."""
    digest = hashlib.sha256()
    for path in (directory / "config.json", *_weight_files(directory)):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.name} {content}\n".encode())
    return digest.hexdigest()


def check_base_model(directory: Path) -> None:
    """Raises InvalidJob unless a config and safetensors weights are there, and nothing that would
    have to be executed."""
    if not (directory / "config.json").is_file():
        raise InvalidJob(Fault("base_model_dir", "has no config.json"))
    if "auto_map" in _config(directory):
        raise InvalidJob(
            Fault("base_model_dir", "its config.json wants code of its own run (auto_map)")
        )
    if not _weight_files(directory):
        raise InvalidJob(
            Fault("base_model_dir", "has no *.safetensors file; pickled weights are not read")
        )


def position_limit(directory: Path) -> int | None:
    """The number of tokens that the model can read at once, if its config sets a limit."""
    config = _config(directory)
    limit = config.get("max_position_embeddings", config.get("n_positions"))
    relative = config.get("model_type") in ("t5", "mt5", "umt5")
    return limit if isinstance(limit, int) and not relative else None


def is_encoder_decoder(directory: Path) -> bool:
    return bool(_config(directory).get("is_encoder_decoder", False))


def load_base(directory: Path, dtype: torch.dtype, **options: object) -> Any:
    """A causal or an encoder–decoder model with every weight from the directory's files.

    Raises InvalidJob if the directory holds no such model in safetensors, or one that this
    installation lacks a package for.
    """
    check_base_model(directory)
    auto = (
        _transformers.AutoModelForSeq2SeqLM
        if is_encoder_decoder(directory)
        else _transformers.AutoModelForCausalLM
    )
    try:
        base, report = auto.from_pretrained(
            directory,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        if is_out_of_memory(error) or isinstance(error, torch.AcceleratorError):
            raise
        raise InvalidJob(Fault("base_model_dir", f"cannot be loaded: {error}")) from error
    if report["missing_keys"]:  # they would be random
        missing = ", ".join(sorted(report["missing_keys"])[:5])
        raise InvalidJob(Fault("base_model_dir", f"its weights lack {missing}"))
    base.config.use_cache = False
    return base


def _config(directory: Path) -> dict[str, Any]:
    try:
        content: object = json.loads((directory / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidJob(Fault("base_model_dir", f"config.json: {error}")) from error
    if not isinstance(content, dict):
        raise InvalidJob(Fault("base_model_dir", "config.json: is not an object"))
    return cast("dict[str, Any]", content)


def _weight_files(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.safetensors"))
