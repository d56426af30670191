"""The encoders of base models whose files are blobs."""

import asyncio
import tempfile
from collections import OrderedDict
from pathlib import Path

from services.chat.encoder import ChatEncoder
from services.chat.errors import TemplateUnsupported, TokenizerFilesMissing
from services.chat.inspection import Encoder
from services.chat.pairs import PairEncoder
from services.chat.text import TextEncoder
from services.chat.tokenizer_files import is_encoder_decoder
from services.common.blobs import Blobs
from services.common.faults import InvalidArgument
from services.common.manifest import Manifest
from services.dataset.domain.errors import (
    BaseModelElsewhere,
    ChatTemplateUnsupported,
    TokenizerUnusable,
)
from services.dataset.domain.masks import BaseModel

TOKENIZER_FILES = (
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
)
MAX_FILE_BYTES = 64 * 1024 * 1024
KEPT_ENCODERS = 2


class BlobEncoders:
    """Fetches of a model the files of its tokenizer alone, never its weights. The encoders that
    were asked for last stay in memory: a large vocabulary is some 100 MB there."""

    def __init__(self, blobs: Blobs, spool_dir: Path | None = None) -> None:
        self._blobs = blobs
        self._spool_dir = spool_dir
        self._kept: OrderedDict[tuple[str, bool], Encoder] = OrderedDict()
        self._loading = asyncio.Lock()

    async def find(self, model: BaseModel, *, texts: bool) -> Encoder:
        if model.manifest_digest is None:
            raise BaseModelElsewhere(model.name)
        key = (model.manifest_digest, texts)
        async with self._loading:
            if key not in self._kept:
                self._kept[key] = await self._load(model, model.manifest_digest, texts)
            self._kept.move_to_end(key)
            if len(self._kept) > KEPT_ENCODERS:
                self._kept.popitem(last=False)
            return self._kept[key]

    async def _load(self, model: BaseModel, manifest_digest: str, texts: bool) -> Encoder:
        manifest = Manifest.parse(await self._blobs.read(manifest_digest))
        with tempfile.TemporaryDirectory(dir=self._spool_dir) as name:
            directory = Path(name)
            for entry in manifest.files:
                if entry.path not in TOKENIZER_FILES:
                    continue
                if entry.size_bytes > MAX_FILE_BYTES:
                    raise TokenizerUnusable(model.name, f"{entry.path} is too large")
                await self._blobs.fetch(entry.sha256, directory / entry.path)
            return await asyncio.to_thread(_loaded, model, directory, texts)


def _loaded(model: BaseModel, directory: Path, texts: bool) -> Encoder:
    """As the engine's own choice of an encoder."""
    try:
        pairs = is_encoder_decoder(directory)
        if texts and pairs:
            raise InvalidArgument.of(
                "base_model",
                "is an encoder–decoder, which learns from pairs, and the dataset holds plain texts",
                "MODEL_LACKS_TEXTS",
            )
        kind = TextEncoder if texts else PairEncoder if pairs else ChatEncoder
        return kind.load(directory)
    except TokenizerFilesMissing as error:
        why = f"{Path(error.path).name}: {error.reason}"
        raise TokenizerUnusable(model.name, why) from error
    except TemplateUnsupported as error:
        raise ChatTemplateUnsupported(model.name, error.reason) from error
