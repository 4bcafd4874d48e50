"""A folder of a container or a volume as pages show it."""

from __future__ import annotations

import posixpath
from typing import Any

from webapp.accounts.actor import Actor
from webapp.core.errors import AppError, Denied


def not_to_see(actor: Actor) -> AppError | None:
    """Return why somebody may not look into files (they may hold secrets, so REST wants the right to operate too)."""
    if actor.can_operate:
        return None
    return Denied("files are for operators: they may hold secrets", hint="ask an admin for that role")


def clean_path(path: str) -> str:
    """Return an absolute path without `..`; the node judges it again."""
    return posixpath.normpath("/" + path.lstrip("/"))


def folder(path: str, entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what `core/_files.html` shows of a folder: folders first, then by name."""
    crumbs, so_far = [{"name": "/", "path": "/"}], ""
    for part in [part for part in path.split("/") if part]:
        so_far += f"/{part}"
        crumbs.append({"name": part, "path": so_far})
    files = [file_row(path, entry) for entry in entries]
    files.sort(key=lambda file: (not file["is_folder"], file["name"]))
    return {
        "file_crumbs": crumbs,
        "file_parent": posixpath.dirname(path) if path != "/" else "",
        "files": files,
    }


def file_row(path: str, entry: dict[str, Any]) -> dict[str, Any]:
    """Return one line of a folder from what the node says of it."""
    mode = entry.get("mode") or 0
    kind = entry.get("type") or entry.get("kind") or ""
    is_folder = kind in ("directory", "dir") or (isinstance(mode, int) and mode & 0o170000 == 0o040000)
    name = str(entry.get("name", ""))
    return {
        "name": name,
        "path": posixpath.join(path, name),
        "is_folder": is_folder,
        "mode": oct(mode & 0o7777)[2:].rjust(4, "0") if isinstance(mode, int) else mode,
        "size_bytes": entry.get("size_bytes", entry.get("size", 0)) or 0,
        "mtime": entry.get("mtime") or entry.get("modified_at"),
        "link_target": entry.get("link_target") or entry.get("target") or "",
    }
