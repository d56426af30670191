"""Plain texts: every token is learnt once, whatever the length of the pieces."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, processors

from services.chat.encoder import EncodedExample
from services.chat.errors import TokenizerFilesMissing
from services.chat.text import TextEncoder

ModelDirectory = Callable[..., Path]
BOS, EOS = 0, 1

POST_PROCESSORS = {
    "begins every text": ("<s> $A", [BOS]),
    "begins and ends every text": ("<s> $A </s>", [BOS]),
    "ends every text": ("$A </s>", []),
    "adds nothing": ("$A", []),
}


def with_post_processor(directory: Path, single: str) -> Path:
    path = directory / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[("<s>", BOS), ("</s>", EOS)]
    )
    tokenizer.save(str(path))
    return directory


@pytest.fixture
def encoder(model_directory: ModelDirectory) -> TextEncoder:
    """Of a model without a chat template, the tokenizer of which begins every text."""
    return TextEncoder.load(with_post_processor(model_directory(None), "<s> $A"))


def joined(pieces: list[EncodedExample]) -> list[int]:
    """The first piece, and what each of the others adds to it."""
    ids = list(pieces[0].token_ids)
    for piece in pieces[1:]:
        assert piece.token_ids[0] == ids[-1]
        ids += piece.token_ids[1:]
    return ids


def test_a_short_text_is_one_piece(encoder: TextEncoder) -> None:
    (piece,) = encoder.pieces("The capital of France is Paris.", 512)

    assert (piece.token_ids[0], piece.token_ids[-1]) == (BOS, EOS)
    assert piece.labeled == [False] + [True] * (len(piece.token_ids) - 1)
    assert not piece.truncated
    assert encoder.decode(piece.token_ids) == "The capital of France is Paris."


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(min_size=1, max_size=300), st.integers(2, 40))
def test_pieces_lose_no_token_and_learn_each_once(
    encoder: TextEncoder, text: str, max_tokens: int
) -> None:
    (whole,) = encoder.pieces(text, 100_000)
    pieces = encoder.pieces(text, max_tokens)

    assert joined(pieces) == whole.token_ids
    assert encoder.decode(joined(pieces)) == text
    assert sum(sum(piece.labeled) for piece in pieces) == len(whole.token_ids) - 1
    assert all(2 <= len(piece.token_ids) <= max_tokens for piece in pieces)
    assert all(len(piece.token_ids) == max_tokens for piece in pieces[:-1])


@pytest.mark.parametrize("name", POST_PROCESSORS)
def test_a_text_begins_as_the_tokenizer_begins_texts(
    name: str, model_directory: ModelDirectory
) -> None:
    single, leading = POST_PROCESSORS[name]
    encoder = TextEncoder.load(with_post_processor(model_directory(None), single))
    words = TextEncoder.load(with_post_processor(model_directory(None), "$A")).pieces("Hello", 9)

    (piece,) = encoder.pieces("Hello", 9)

    assert piece.token_ids == [*leading, *words[0].token_ids]


def test_a_byte_level_tokenizer_begins_a_text_with_its_first_word(
    model_directory: ModelDirectory,
) -> None:
    (piece,) = TextEncoder.load(model_directory(None)).pieces("Hello", 9)

    assert BOS not in piece.token_ids
    assert piece.token_ids[-1] == EOS


def test_a_text_without_a_token_gives_nothing(encoder: TextEncoder) -> None:
    assert encoder.pieces("", 9) == []


def test_a_tokenizer_without_an_end_is_refused(model_directory: ModelDirectory) -> None:
    for eos in ({"eos_token": None}, {"eos_token": "<gone>"}):
        directory = model_directory(None, **eos)
        with pytest.raises(TokenizerFilesMissing, match="names no end-of-sequence token"):
            TextEncoder.load(directory)


def test_generation_stops_at_every_end_that_the_model_declares(
    model_directory: ModelDirectory,
) -> None:
    directory = model_directory(None)
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [3, 1]}))

    assert TextEncoder.load(directory).eos_token_ids == {1, 3}
