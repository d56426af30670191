"""Measuring in turns, and printing what came out."""

import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

Measurement = Callable[[], Awaitable[float]]


@dataclass(frozen=True)
class Figure:
    """Values of one side, a value a round."""

    name: str
    unit: str
    values: Sequence[float]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def row(self, reference: "Figure") -> str:
        ratio = self.median / reference.median
        spread = f"{min(self.values):,.0f} to {max(self.values):,.0f}"
        return f"| {self.name} | {self.median:,.0f} | {spread} | {ratio:.2f} |"


async def take_turns(sides: Mapping[str, Measurement], unit: str, rounds: int) -> dict[str, Figure]:
    """Runs every side once to warm up, then `rounds` times in turns, turning round each time."""
    values: dict[str, list[float]] = {name: [] for name in sides}
    for measure in sides.values():
        await measure()
    for number in range(rounds):
        for name in sorted(sides, reverse=number % 2 == 1):
            values[name].append(await sides[name]())
    return {name: Figure(name, unit, taken) for name, taken in values.items()}


def print_figures(title: str, figures: Mapping[str, Figure], reference: str) -> None:
    """A Markdown table with ratios to the side `reference`."""
    unit = figures[reference].unit
    print(f"\n### {title}\n")
    print(f"| | median {unit} | min to max | × {reference} |")
    print("| --- | ---: | ---: | ---: |")
    for figure in figures.values():
        print(figure.row(figures[reference]))


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the values lie, by the nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
