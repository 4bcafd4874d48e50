"""Modules with one guard taken out, to prove that the guard's test would notice (H14)."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType


def mutant(module: ModuleType, *edits: tuple[str, str]) -> ModuleType:
    """Return a copy of `module` whose source was edited; every text to be replaced must be there."""
    assert module.__file__ is not None
    source = Path(module.__file__).read_text()
    for old, new in edits:
        assert old in source, f"{module.__name__} no longer has {old!r}: name the guard anew"
        source = source.replace(old, new)
    copy = ModuleType(module.__name__)  # its classes and functions find themselves under the same name
    copy.__file__ = module.__file__
    exec(compile(source, f"{module.__file__} (mutant)", "exec"), copy.__dict__)
    return copy
