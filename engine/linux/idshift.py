"""Owners of files seen from inside and from outside of a user namespace: shifting ids by a constant."""

from __future__ import annotations

from dataclasses import dataclass

RANGE = 65536


@dataclass(frozen=True)
class IdShift:
    """Maps the ids `first` … `first + count - 1` to `target` …; every other id stays as it is."""

    first: int = 0
    target: int = 0
    count: int = RANGE

    def apply(self, identity: int) -> int:
        offset = identity - self.first
        return self.target + offset if 0 <= offset < self.count else identity

    def __bool__(self) -> bool:
        return self.first != self.target


NO_SHIFT = IdShift()


def to_host(start: int) -> IdShift:
    """Return the shift from ids inside a container whose root is host id `start` to ids on the host."""
    return IdShift(0, start)


def to_container(start: int) -> IdShift:
    """Return the shift from ids on the host to ids inside a container whose root is host id `start`."""
    return IdShift(start, 0)
