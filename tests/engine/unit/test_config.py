"""What the environment says about a node."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.config import EngineConfig


def test_port_of_the_panel_and_of_ssh_are_never_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NW-01."""
    monkeypatch.setenv("WHARFINGER_PORT", "8000")
    assert EngineConfig.from_home(tmp_path).denied_host_ports == (8000, 22)


def test_an_administrator_names_the_ports_that_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WHARFINGER_PORT", raising=False)
    monkeypatch.setenv("WHARFINGER_DENIED_PORTS", "5432, 6379,")
    assert EngineConfig.from_home(tmp_path).denied_host_ports == (5432, 6379)
    monkeypatch.setenv("WHARFINGER_DENIED_PORTS", "")
    assert EngineConfig.from_home(tmp_path).denied_host_ports == ()
