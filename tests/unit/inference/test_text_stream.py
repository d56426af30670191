"""Text leaves a worker as soon as, and only when, no later token can change it."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from services.inference.worker.text import TextStream

WORD = "naïve 🙂 text, and then some"


def decode_bytes(token_ids: Sequence[int]) -> str:
    """A tokenizer whose every token is one byte: the hardest for unfinished characters."""
    return bytes(token_ids).decode(errors="replace")


def stream(text: str, stops: Sequence[str] = ()) -> tuple[list[str], TextStream]:
    texts = TextStream(decode_bytes, stops)
    pieces: list[str] = []
    for token in text.encode():
        pieces.append(texts.add(token))
        if texts.stopped:
            break
    return [*pieces, texts.finish()], texts


@given(st.text(max_size=60))
def test_the_pieces_together_are_the_text(text: str) -> None:
    pieces, _ = stream(text)

    assert "".join(pieces) == text


def test_a_character_is_given_out_whole() -> None:
    pieces, _ = stream(WORD)

    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


def test_a_stop_sequence_and_what_follows_are_not_given_out() -> None:
    pieces, texts = stream("one END two", ["END"])

    assert "".join(pieces) == "one "
    assert texts.stopped


def test_the_beginning_of_a_stop_sequence_that_never_ends_is_given_out_late() -> None:
    pieces, texts = stream("an EN", ["END"])

    assert pieces[-1] == "EN"
    assert "".join(pieces) == "an EN"
    assert not texts.stopped


@given(st.text(alphabet="ab", max_size=30), st.text(alphabet="ab", min_size=1, max_size=4))
def test_a_stop_sequence_ends_the_text_where_it_first_stands(text: str, stop: str) -> None:
    pieces, texts = stream(text, [stop])

    assert "".join(pieces) == text.split(stop)[0]
    assert texts.stopped == (stop in text)
