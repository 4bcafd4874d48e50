"""Opens the engine of this node. `WHARFINGER_ENGINE` names another class (`module:name`) that takes an `EngineConfig`: tests use it."""

from __future__ import annotations

import importlib
import os
from typing import cast

from engine.config import EngineConfig
from workers.facade import EngineFacade

DEFAULT = "engine.engine:Engine"


def open_engine(config: EngineConfig) -> EngineFacade:
    """Return the façade of the engine on this node."""
    module, _, name = (os.environ.get("WHARFINGER_ENGINE") or DEFAULT).partition(":")
    return cast(EngineFacade, getattr(importlib.import_module(module), name)(config))
