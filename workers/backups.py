"""Where kept backups lie on a node: below the folders that its owner allows, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from engine.errors import Denied, InvalidInput


def backup_path(home: Path, allowed_roots: Iterable[str], directory: str, file_name: str) -> Path:
    """Return the path of a backup; raise `InvalidInput` for what is no file name, `Denied` for another folder."""
    if not file_name or "/" in file_name or "\0" in file_name or file_name.startswith("."):
        raise InvalidInput(f"not a file name: {file_name[:100]!r}")
    folder = Path(directory).resolve()
    allowed = [*(Path(root).resolve() for root in allowed_roots), (home / "backups").resolve()]
    if not any(folder == root or root in folder.parents for root in allowed):
        raise Denied(
            f"backups may not be kept in {directory!r}",
            hint="allow the folder on the node, see WHARFINGER_BIND_ROOTS",
        )
    return folder / file_name
