"""Interleaved timing of several contestants and the table that comes out of it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Contest:
    """One figure: a name, what is asked for, and the seconds that each contestant took, run by run."""

    name: str
    bar: str = ""
    seconds: dict[str, list[float]] = field(default_factory=dict)
    note: str = ""

    def median_ms(self, contestant: str) -> float:
        return 1000 * statistics.median(self.seconds[contestant])

    def row(self, contestants: list[str]) -> list[str]:
        """Return the cells of this figure: medians in milliseconds, then ours as a ratio of the fastest peer."""
        cells = [self.name]
        for contestant in contestants:
            cells.append(f"{self.median_ms(contestant):,.1f}" if self.seconds.get(contestant) else "-")
        ours = [name for name in ("engine", "rest", "docker API") if self.seconds.get(name)]
        peers = [
            name
            for name in self.seconds
            if name not in ("engine", "rest", "docker API") and self.seconds[name]
        ]
        ratio = ""
        if ours and peers:
            ratio = f"{min(map(self.median_ms, ours)) / min(map(self.median_ms, peers)):.2f}"
        return [*cells, ratio or "-", self.bar, self.note]


def race(
    contest: Contest, contestants: dict[str, Callable[[], object]], *, rounds: int = 7, warm_up: int = 1
) -> Contest:
    """Run all contestants in turn, `rounds` times after `warm_up`; one that fails is left out and says why."""
    broken: dict[str, str] = {}
    for number in range(warm_up + rounds):
        for name, run in contestants.items():
            if name in broken:
                continue
            started = time.perf_counter()
            try:
                taken = run()
            except Exception as error:  # a peer that cannot do it must not end the run
                broken[name] = f"{name}: {type(error).__name__}: {str(error)[:160]}"
                contest.seconds.pop(name, None)
                continue
            elapsed = taken if isinstance(taken, float) else time.perf_counter() - started
            if number >= warm_up:
                contest.seconds.setdefault(name, []).append(elapsed)
    contest.note = "; ".join([contest.note, *broken.values()]).strip("; ")
    return contest
