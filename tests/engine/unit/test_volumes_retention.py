"""Which backups are kept."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import BadSpec
from engine.volumes.retention import Retention, StoredBackup

NOW = datetime(2026, 3, 15, 3, 0, tzinfo=UTC)


def daily(days: int, per_day: int = 1) -> list[StoredBackup]:
    times = [
        NOW - timedelta(days=day, hours=24 // per_day * turn)
        for day in range(days)
        for turn in range(per_day)
    ]
    return [StoredBackup(f"b{when:%Y%m%d%H}", when.timestamp()) for when in times]


def kept(policy: Retention, backups: list[StoredBackup]) -> list[str]:
    gone = {backup.file_name for backup in policy.expired(backups)}
    return sorted((backup.file_name for backup in backups if backup.file_name not in gone), reverse=True)


def test_without_numbers_everything_is_kept() -> None:
    assert Retention().expired(daily(400)) == []


def test_last_ones_are_kept() -> None:
    assert kept(Retention(last=3), daily(10)) == ["b2026031503", "b2026031403", "b2026031303"]


def test_one_a_day_is_kept_the_newest_of_it() -> None:
    assert kept(Retention(daily=2), daily(3, per_day=2)) == ["b2026031503", "b2026031415"]


def test_days_without_a_backup_do_not_count() -> None:
    backups = [daily(40)[0], daily(40)[30], daily(40)[39]]
    assert len(kept(Retention(daily=2), backups)) == 2


def test_weeks_and_months_add_to_days() -> None:
    found = kept(Retention(daily=2, weekly=2, monthly=3), daily(120))
    assert found == ["b2026031503", "b2026031403", "b2026030803", "b2026022803", "b2026013103"]


def test_newest_is_always_kept() -> None:
    assert kept(Retention(monthly=1), daily(1)) == ["b2026031503"]


@given(
    st.lists(st.floats(1e9, 2e9), max_size=60),
    st.builds(Retention, *(st.integers(0, 9) for _ in range(4))),
)
def test_removing_again_removes_nothing_more(times: list[float], policy: Retention) -> None:
    backups = [StoredBackup(f"b{number}", when) for number, when in enumerate(times)]
    gone = set(policy.expired(backups))
    rest = [backup for backup in backups if backup not in gone]
    assert policy.expired(rest) == []
    assert not backups or rest


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(BadSpec):
        Retention(last=-1)
