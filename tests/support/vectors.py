"""Where the conformance vectors are: files made from other projects' test tables, never copied into this one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(os.environ.get("WHARFINGER_VECTORS") or Path(__file__).parents[3] / "shared" / "vectors")


def load_vectors(*parts: str) -> Any:  # whatever the JSON file holds
    """Return one JSON file of vectors, or skip the calling test module, with the reason, where there is none."""
    path = ROOT.joinpath(*parts)
    if not path.is_file():
        pytest.skip(f"no vectors at {path}: set WHARFINGER_VECTORS", allow_module_level=True)
    return json.loads(path.read_text())
