"""What a test of faults has measured, as one line of JSON."""

import json
from collections.abc import Sequence


def line_of(fault: str, /, **figures: object) -> str:
    rounded = {name: _rounded(value) for name, value in figures.items()}
    return json.dumps({"fault": fault, **rounded})


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest of the values that so large a share of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _rounded(value: object) -> object:
    return round(value, 3) if isinstance(value, float) else value
