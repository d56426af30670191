"""From token ids, as they come, to text that can be sent at once."""

from collections.abc import Callable, Sequence

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


class TextStream:
    """Gives out text as soon as no later token can change it.

    Held back are the bytes of an unfinished character, and an end that may become a stop
    sequence. `stopped` tells that a stop sequence came; neither it nor what follows is given out.
    """

    def __init__(
        self, decode: Callable[[Sequence[int]], str], stop_sequences: Sequence[str]
    ) -> None:
        self._decode = decode
        self._stop_sequences = stop_sequences
        self._token_ids: list[int] = []
        self._given = 0
        self.stopped = False

    def add(self, token_id: int) -> str:
        """The text that this token sets free; often empty."""
        self._token_ids.append(token_id)
        text = self._decode(self._token_ids)
        if (stop := self._stop_at(text)) is not None:
            self.stopped = True
            return self._give(text, stop)
        return self._give(text, self._safe_length(text))

    def finish(self) -> str:
        """The rest, when no token will follow."""
        text = self._decode(self._token_ids)
        return "" if self.stopped else self._give(text, len(text))

    def _give(self, text: str, end: int) -> str:
        start, self._given = self._given, max(self._given, end)
        return text[start:end]

    def _stop_at(self, text: str) -> int | None:
        found = [text.find(stop) for stop in self._stop_sequences]
        return min((place for place in found if place >= 0), default=None)

    def _safe_length(self, text: str) -> int:
        whole = len(text.rstrip(_INCOMPLETE))
        held = (_overlap(text[:whole], stop) for stop in self._stop_sequences)
        return whole - max(held, default=0)


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that begins `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
