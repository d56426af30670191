"""Reads the tokenizer's files of a model directory."""

import json
from collections.abc import Iterable
from itertools import takewhile
from pathlib import Path
from typing import Any, cast

from tokenizers import Tokenizer

from services.chat.errors import TokenizerFilesMissing


def read_config(directory: Path) -> dict[str, Any]:
    """Reads tokenizer_config.json; raises TokenizerFilesMissing."""
    return _read_json(directory / "tokenizer_config.json")


def is_encoder_decoder(directory: Path) -> bool:
    """As its config.json says; raises TokenizerFilesMissing."""
    return bool(_read_json(directory / "config.json").get("is_encoder_decoder", False))


def read_tokenizer(directory: Path) -> Tokenizer:
    """Reads tokenizer.json; raises TokenizerFilesMissing."""
    tokenizer = _tokenizer_as_it_is(directory)
    # The template writes every special token itself. A byte-level post-processor would only
    # trim leading spaces off the offsets, and with them the place where a turn starts.
    tokenizer.post_processor = None
    return tokenizer


def leading_ids(directory: Path) -> list[int]:
    """What tokenizer.json's post-processor puts before a text: of some models a
    beginning-of-sequence token, of others nothing. Raises TokenizerFilesMissing."""
    encoding = _tokenizer_as_it_is(directory).encode("a")
    pairs = zip(encoding.ids, encoding.special_tokens_mask, strict=True)
    return [token for token, _ in takewhile(lambda pair: pair[1], pairs)]


def _tokenizer_as_it_is(directory: Path) -> Tokenizer:
    path = directory / "tokenizer.json"
    if not path.is_file():
        raise TokenizerFilesMissing(str(path), "there is no such file")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more specific
        raise TokenizerFilesMissing(str(path), f"is not a tokenizer: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def special_tokens(config: dict[str, Any]) -> Iterable[tuple[str, str]]:
    """The tokens that tokenizer_config.json names, as `eos_token` and its text."""
    for name, token in config.items():
        if not name.endswith("_token"):
            continue
        if isinstance(token, dict):
            token = cast("dict[str, Any]", token).get("content")
        if isinstance(token, str):
            yield name, token


def declared_eos(
    directory: Path, tokenizer: Tokenizer, special_tokens: dict[str, str]
) -> frozenset[int]:
    """The stop ids of tokenizer_config.json and, where there is one, generation_config.json."""
    declared: set[int] = set()
    eos = tokenizer.token_to_id(special_tokens.get("eos_token", ""))
    if eos is not None:
        declared.add(eos)
    path = directory / "generation_config.json"
    ids: Any = _read_json(path).get("eos_token_id") if path.is_file() else None
    declared.update(cast("list[int]", ids) if isinstance(ids, list) else [])
    declared.update([ids] if isinstance(ids, int) else [])
    return frozenset(declared)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: object = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise TokenizerFilesMissing(str(path), "there is no such file") from error
    except ValueError as error:
        raise TokenizerFilesMissing(str(path), f"is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise TokenizerFilesMissing(str(path), "is not a JSON object")
    return cast("dict[str, Any]", content)
