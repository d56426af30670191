"""The dataset as token ids and labels, for trainers that do not read conversations."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

NO_LABEL = -100
"""What torch's cross-entropy ignores."""


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """`labels[i]` is `input_ids[i]` where the loss covers it, else -100."""

    input_ids: list[int]
    labels: list[int]

    @classmethod
    def of(cls, token_ids: Sequence[int], labeled: Sequence[bool | int]) -> Self:
        pairs = zip(token_ids, labeled, strict=True)
        return cls(list(token_ids), [token if covered else NO_LABEL for token, covered in pairs])

    @property
    def label_count(self) -> int:
        return sum(label != NO_LABEL for label in self.labels)


def write_encoded(path: Path, examples: Sequence[EncodedExample]) -> None:
    lines = (json.dumps(asdict(example)) + "\n" for example in examples)
    path.write_text("".join(lines), encoding="utf-8")


def read_encoded(path: Path) -> list[EncodedExample]:
    with path.open(encoding="utf-8") as lines:
        return [EncodedExample(**json.loads(line)) for line in lines]
