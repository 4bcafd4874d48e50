"""What the environment says about a node."""

from __future__ import annotations

from collections.abc import Callable
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


def test_ports_that_may_be_published_are_a_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NW-01."""
    assert EngineConfig.from_home(tmp_path).publish_range == (1, 65535)
    monkeypatch.setenv("WHARFINGER_PUBLISH_PORTS", "1024-65535")
    assert EngineConfig.from_home(tmp_path).publish_range == (1024, 65535)


@pytest.mark.parametrize("text", ["1024", "-", "0-80", "90-80", "1-70000", "a-b", "1024-65535-1", "-1-80"])
def test_range_that_is_none_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("WHARFINGER_PUBLISH_PORTS", text)
    with pytest.raises(ValueError, match="like 1024-65535"):
        EngineConfig.from_home(tmp_path)


@pytest.mark.parametrize("spelling", [str.upper, str.lower])
def test_the_proxies_of_registries_come_from_the_usual_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: Callable[[str], str]
) -> None:
    for name in ("https_proxy", "http_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
        monkeypatch.setenv(spelling(name), f"value-of-{name}")
    config = EngineConfig.from_home(tmp_path)
    assert config.https_proxy == "value-of-https_proxy"
    assert config.http_proxy == "value-of-http_proxy"
    assert config.no_proxy == "value-of-no_proxy"
    assert "value-of-https_proxy" not in repr(config)
