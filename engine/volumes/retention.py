"""Which backups to keep: pure arithmetic on their times.

    keep = Retention(last=3, daily=7, weekly=4, monthly=12)
    for backup in keep.expired(backups): ...

The newest backup of each of the last so many days, weeks (from Monday) and months that have one is kept, and the last so
many of all; the rest has expired. The newest of all is always kept, whatever the numbers say. Times are UTC.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from engine.errors import BadSpec


@dataclass(frozen=True)
class StoredBackup:
    """A backup in a directory: its file name and when it was made (seconds since the epoch)."""

    file_name: str
    created_at: float


@dataclass(frozen=True)
class Retention:
    """How many backups to keep of each kind; all zero keeps every one."""

    last: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0

    def __post_init__(self) -> None:
        if min(self.last, self.daily, self.weekly, self.monthly) < 0:
            raise BadSpec("a number of backups to keep cannot be negative")

    def expired(self, backups: Iterable[StoredBackup]) -> list[StoredBackup]:
        """Return the backups that are to be removed, oldest first."""
        newest_first = sorted(backups, key=lambda backup: (backup.created_at, backup.file_name), reverse=True)
        if not newest_first or not any((self.last, self.daily, self.weekly, self.monthly)):
            return []
        kept = {newest_first[0].file_name, *(backup.file_name for backup in newest_first[: self.last])}
        kept |= _newest_of_each(newest_first, self.daily, lambda when: when.strftime("%Y-%m-%d"))
        kept |= _newest_of_each(newest_first, self.weekly, lambda when: when.strftime("%G-%V"))
        kept |= _newest_of_each(newest_first, self.monthly, lambda when: when.strftime("%Y-%m"))
        return [backup for backup in reversed(newest_first) if backup.file_name not in kept]


def _newest_of_each(
    newest_first: Sequence[StoredBackup], count: int, period: Callable[[datetime], str]
) -> set[str]:
    seen: dict[str, str] = {}
    for backup in newest_first:
        seen.setdefault(period(datetime.fromtimestamp(backup.created_at, UTC)), backup.file_name)
    return set(list(seen.values())[:count])
