"""Language models from directories: a base, or a version of it."""

from pathlib import Path
from typing import Any

from services.chat.encoder import ChatEncoder
from services.chat.errors import ChatError
from services.chat.pairs import PairEncoder
from services.inference.worker import adapters
from services.inference.worker.causal import CausalModel
from services.inference.worker.encoder_decoder import EncoderDecoderModel
from services.inference.worker.errors import ModelUnusable, NetworkUnusable, cause_without_place
from services.inference.worker.language_model import LanguageModel
from services.inference.worker.networks import load_network
from services.inference.worker.recent import Recent

_ADAPTERS_IN_MEMORY = 8
_WHOLE_MODELS_IN_MEMORY = 2
"""Beside the base, which is of the same size as each of them."""


class Versions:
    """A base model and the versions of it that were asked for last.

    A version is an adapter, which uses the base's weights, or a whole model with all its own. None
    of them changes the base or another version.
    """

    def __init__(self, base_directory: Path) -> None:
        """Raises NetworkUnusable."""
        self._base = load_language_model(base_directory)
        self._adapted = Recent[LanguageModel](_ADAPTERS_IN_MEMORY)
        self._whole = Recent[LanguageModel](_WHOLE_MODELS_IN_MEMORY)

    def model(self, artifacts: Path | None) -> LanguageModel:
        """The version whose artifacts are in this directory; without one, the base.

        Raises ModelUnusable.
        """
        if artifacts is None:
            return self._base
        if (artifacts / adapters.CONFIG).is_file():
            return self._adapted.get(artifacts, self._adapt)
        if (artifacts / "config.json").is_file():
            return self._whole.get(artifacts, load_language_model)
        raise ModelUnusable(f"its artifacts hold neither {adapters.CONFIG} nor config.json")

    def _adapt(self, directory: Path) -> LanguageModel:
        return self._base.with_network(adapters.with_adapter(self._base.network, directory))


def load_language_model(directory: Path) -> LanguageModel:
    """The whole model in `directory`, with its tokenizer. Raises NetworkUnusable."""
    network = load_network(directory)
    try:
        if network.config.is_encoder_decoder:
            _require_start(network)
            return EncoderDecoderModel(network, PairEncoder.load(directory))
        return CausalModel(network, ChatEncoder.load(directory))
    except ChatError as error:
        raise NetworkUnusable(cause_without_place(error, directory)) from error


def _require_start(network: Any) -> None:
    if getattr(network.config, "decoder_start_token_id", None) is None:
        raise NetworkUnusable("its config.json names no decoder_start_token_id")
