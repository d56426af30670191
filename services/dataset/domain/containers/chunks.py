"""A long text → chunks that end where a reader would pause."""

import re
from collections.abc import Iterable, Iterator

_HEADING = re.compile(r"\n(?=#{1,6} )")
_PARAGRAPH = re.compile(r"\n[ \t]*\n\s*")
_SENTENCE = re.compile(r"[.!?…]['\"”’»)\]]*\s+|[。！？][”’」』）]*")
_LINE = re.compile(r"\n")
_WORD = re.compile(r"\s+")
_BOUNDARIES = (_HEADING, _PARAGRAPH, _SENTENCE, _LINE, _WORD)
"""In the order in which they are looked for. A line is less than a sentence: text is often wrapped
within sentences."""


def chunks(pieces: Iterable[str], size: int, overlap: int) -> Iterator[str]:
    """Chunks of at most `size` characters, at least half as many but for the last. Each begins with
    up to `overlap` characters of the one before, from a boundary on; none at all at a heading.

    The text arrives in pieces, cut anywhere; no more than a piece and a chunk of it are held.
    """
    text, repeated = "", 0
    for piece in pieces:
        text += piece
        at = 0
        while len(text) - at > size:
            end, begin = _cut(text, at, size, overlap)
            yield from _unless_blank(text[at:end])
            at, repeated = begin, end - begin
        text = text[at:]
    if text[repeated:].strip():
        yield from _unless_blank(text)


def _cut(text: str, at: int, size: int, overlap: int) -> tuple[int, int]:
    """Where the chunk ends that begins `at`, and where the next begins."""
    least = at + max(size // 2, overlap) + 1
    for boundary in _BOUNDARIES:
        end = _last(boundary, text, least, at + size)
        if end is not None:
            break
    else:
        return at + size, at + size - overlap
    if boundary is _HEADING:
        return end, end
    return end, _first_boundary(text, end - overlap, end)


def _last(boundary: re.Pattern[str], text: str, start: int, stop: int) -> int | None:
    ends = [found.end() for found in boundary.finditer(text, start - 1, stop)]
    return ends[-1] if ends and ends[-1] >= start else None


def _first_boundary(text: str, start: int, stop: int) -> int:
    """The first one of the best kind that there is: a paragraph's or sentence's beginning, or else
    a word's."""
    for boundary in (_PARAGRAPH, _SENTENCE, _LINE, _WORD):
        found = boundary.search(text, start, stop)
        if found is not None and found.end() < stop:
            return found.end()
    return start


def _unless_blank(text: str) -> Iterator[str]:
    if text := text.strip():
        yield text
