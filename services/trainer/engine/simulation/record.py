"""A record of what is allocated and freed."""

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(slots=True)
class Allocation:
    """A piece of memory. `born` and `died` are places in the record; one without a death was
    alive at the end."""

    size_bytes: int
    born: int
    died: int | None = None

    def is_alive_at(self, place: int) -> bool:
        return self.born <= place and (self.died is None or place < self.died)


@dataclass(slots=True, eq=False)
class Record:
    """All allocations in the order of their births. Births and deaths make up `length` events, of
    which each has a place, from 0."""

    allocations: list[Allocation] = field(default_factory=list[Allocation])
    length: int = 0

    def begin(self, size_bytes: int) -> int:
        """Returns the allocation's number."""
        self.allocations.append(Allocation(size_bytes, self.length))
        self.length += 1
        return len(self.allocations) - 1

    def end(self, number: int) -> None:
        self.allocations[number].died = self.length
        self.length += 1

    def events(self, start: int, stop: int) -> Iterator[tuple[int, bool]]:
        """The number of an allocation and whether it begins, for each event in these places; the
        end of what began before `start` is left out."""
        at: dict[int, tuple[int, bool]] = {}
        for number, allocation in enumerate(self.allocations):
            if not start <= allocation.born < stop:
                continue
            at[allocation.born] = number, True
            if allocation.died is not None and allocation.died < stop:
                at[allocation.died] = number, False
        return (at[place] for place in sorted(at))

    def alive_bytes(self, begins: int, place: int) -> int:
        """After the event in `place`, of what was born in `begins` or later."""
        return sum(
            allocation.size_bytes
            for allocation in self.allocations
            if allocation.born >= begins and allocation.is_alive_at(place)
        )

    def fullest(self, begins: int) -> int:
        """The place, from `begins` on, of the event after which most was alive."""
        alive = most = 0
        fullest = begins
        for number, is_birth in self.events(begins, self.length):
            allocation = self.allocations[number]
            alive += allocation.size_bytes if is_birth else -allocation.size_bytes
            if alive > most:
                most, fullest = alive, allocation.born
        return fullest
