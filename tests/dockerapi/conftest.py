"""Marks: these tests drive the real `docker` command and clients against a running platform."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.support.platform import Platform


@pytest.fixture
def engine(server: Platform) -> Iterator[Platform]:
    """The platform, with no containers before and after."""
    if shutil.which("docker") is None:
        pytest.skip("the docker command is not installed")
    yield server
    server.remove_containers()
