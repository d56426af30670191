"""What the configurations of all tuners have in common."""

from typing import Any


def plain_lists(fields: dict[str, Any]) -> dict[str, Any]:
    """Sets, into which PEFT turns long lists of targets, as sorted lists: always the same JSON."""
    return {name: sorted(v) if isinstance(v, set) else v for name, v in fields.items()}
