"""Exits are noticed at once, and those of the past are found."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from workers.agent import exits
from workers.agent.exits import ExitWatch
from workers.agent.tasks import end_tasks


class Reaper:
    def __init__(self) -> None:
        self.reaped: list[str] = []
        self.failures = 0

    async def __call__(self, name: str) -> None:
        if self.failures:
            self.failures -= 1
            raise OSError("not now")
        self.reaped.append(name)

    async def until(self, count: int) -> None:
        deadline = time.monotonic() + 5
        while len(self.reaped) < count:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.001)


def exit_file(folder: Path, name: str) -> None:
    """Write as conmon does: a temporary file, then a rename."""
    temporary = folder / f"{name}.ABC123"
    temporary.write_text("42")
    temporary.replace(folder / name)


async def test_an_exit_is_noticed_within_50_ms(tmp_path: Path) -> None:
    reaper = Reaper()
    task = asyncio.create_task(ExitWatch(tmp_path, reaper).run())
    await asyncio.sleep(0.05)
    began = time.monotonic()
    exit_file(tmp_path, "a" * 64)
    await reaper.until(1)
    assert time.monotonic() - began < 0.05
    assert reaper.reaped == ["a" * 64]
    await end_tasks([task])


async def test_exits_of_the_past_are_found_and_each_is_reaped_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F-08."""
    monkeypatch.setattr(exits, "LOOK_EVERY_S", 0.02)
    exit_file(tmp_path, "a" * 64)
    reaper = Reaper()
    task = asyncio.create_task(ExitWatch(tmp_path, reaper).run())
    await asyncio.sleep(0.2)
    assert reaper.reaped == ["a" * 64]
    exit_file(tmp_path, "a" * 64)
    await reaper.until(2)
    await asyncio.sleep(0.1)
    assert len(reaper.reaped) == 2
    await end_tasks([task])


async def test_what_fails_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exits, "LOOK_EVERY_S", 0.02)
    reaper = Reaper()
    reaper.failures = 2
    task = asyncio.create_task(ExitWatch(tmp_path, reaper).run())
    exit_file(tmp_path, "a" * 64)
    await reaper.until(1)
    await end_tasks([task])
