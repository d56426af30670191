"""Which prompt a voter sees next, which arm stands on which side, and the name of the pair.

All of it follows from the experiment's secret, so it is the same at every call and needs no row;
to whoever lacks the secret, sides and ids are random.
"""

import hashlib
import hmac
import json
from collections.abc import Iterable
from dataclasses import dataclass

from services.abtest.domain.experiment import Arm, Experiment

_ID_PREFIX = "p-"
_JUDGEMENT_DIGITS = 32
_SEAL_DIGITS = 16


@dataclass(frozen=True)
class Sides:
    """Which arm stands where, for one voter and prompt."""

    left: Arm

    @property
    def right(self) -> Arm:
        return self.left.other


class Blinding:
    """The secrets of one experiment."""

    def __init__(self, experiment: Experiment) -> None:
        self._secret = experiment.secret
        self._uid = experiment.uid

    def sides(self, voter: str, prompt: int) -> Sides:
        """Either way with probability 1/2, independently for every voter and prompt."""
        heads = self._mac("side", voter, prompt)[0] & 1
        return Sides(Arm.BASELINE if heads else Arm.CANDIDATE)

    def order(self, voter: str, prompts: Iterable[int]) -> list[int]:
        """The prompts in the voter's own order."""
        return sorted(prompts, key=lambda prompt: self._mac("order", voter, prompt))

    def pair_id(self, voter: str, prompt: int) -> str:
        """An id that only this voter can use and that tells neither prompt nor side."""
        judgement = self._mac("pair", voter, prompt).hex()[:_JUDGEMENT_DIGITS]
        return f"{_ID_PREFIX}{judgement}{self._seal(judgement)}"

    def prompt_of(self, pair: str, voter: str, prompt_count: int) -> int | None:
        """The prompt that this pair shows to this voter, or None if it is not theirs."""
        for prompt in range(prompt_count):
            if hmac.compare_digest(pair, self.pair_id(voter, prompt)):
                return prompt
        return None

    def issued(self, pair: str) -> bool:
        """Whether the pair is one of this experiment, whoever it was served to."""
        body = pair.removeprefix(_ID_PREFIX)
        judgement, seal = body[:_JUDGEMENT_DIGITS], body[_JUDGEMENT_DIGITS:]
        return pair.startswith(_ID_PREFIX) and hmac.compare_digest(seal, self._seal(judgement))

    def _seal(self, judgement: str) -> str:
        return self._mac("seal", judgement).hex()[:_SEAL_DIGITS]

    def _mac(self, purpose: str, *parts: str | int) -> bytes:
        text = json.dumps([purpose, self._uid, *parts])
        return hmac.digest(self._secret, text.encode(), hashlib.sha256)
