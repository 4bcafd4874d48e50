"""An image's layers as the explorer shows them: instruction → layer → files → bytes, and what later layers waste."""

from __future__ import annotations

from typing import Any

from webapp.core.templatetags.wf import draw_bar, size_text
from webapp.images import services
from webapp.images.models import Image

FILES_SHOWN = 1500
DEEPEST = 4
MARKS = {"added": "A", "changed": "C", "removed": "D", "A": "A", "C": "C", "D": "D"}


def explorer(image: Image, chosen: int | None) -> dict[str, Any]:
    """Return the layers with their figures, and the files of the chosen one. Raises what asking the node raises."""
    rows = [_layer(row, number) for number, row in enumerate(services.layers(image).get("layers") or [])]
    empty = _empty_instructions(image)
    largest = max([row["size"] for row in rows], default=1) or 1
    for row in rows:
        row["bar"] = draw_bar([(row["size"], 3 if row["shared"] else 2)], largest)
    index = chosen if chosen is not None and 0 <= chosen < len(rows) else _most_telling(rows)
    files = _files(image, index) if rows else {"files": [], "counts": {}, "wasted": 0, "total": 0}
    own = sum(row["size"] for row in rows if not row["shared"])
    if rows:
        rows[index]["wasted"] = files["wasted"]
    return {
        "layers": rows,
        "chosen": rows[index] if rows else None,
        "empty": empty,
        "size": sum(row["size"] for row in rows),
        "shared": sum(row["size"] for row in rows if row["shared"]),
        "own": own,
        "wasted": files["wasted"],
        **{name: files[name] for name in ("files", "counts", "total")},
    }


def _layer(row: dict[str, Any], number: int) -> dict[str, Any]:
    layer = row.get("layer") or row
    blob = layer.get("descriptor") or {}
    size = int(layer.get("size") or layer.get("size_bytes") or row.get("size_bytes") or 0)
    shared = row.get("shared_with") or []
    return {
        "index": int(row.get("index", number)),
        "number": int(row.get("index", number)) + 1,
        "instruction": clean_instruction(row.get("created_by") or "") or "layer without a history",
        "size": size,
        "packed": int(blob.get("size") or 0),
        "digest": blob.get("digest") or layer.get("digest") or layer.get("diff_id") or "",
        "diff_id": layer.get("diff_id") or "",
        "shared": len(shared),
        "wasted": 0,
    }


def clean_instruction(text: str) -> str:
    """Return a line of an image's history as the instruction that it was."""
    text = text.strip()
    for before, after in (("/bin/sh -c #(nop) ", ""), ("/bin/sh -c #(nop)", ""), ("/bin/sh -c ", "RUN ")):
        if text.startswith(before):
            return (after + text[len(before) :]).strip()
    return text.removesuffix(" # buildkit").strip()


def _most_telling(rows: list[dict[str, Any]]) -> int:
    """Return the layer to open first: the largest that only this image has, else the topmost."""
    own = [row for row in rows if not row["shared"]]
    return max(own, key=lambda row: row["size"])["index"] if own else max(len(rows) - 1, 0)


def _empty_instructions(image: Image) -> list[str]:
    """Return the instructions that made no layer: they changed the configuration only."""
    history = (image.record.get("config") or {}).get("history") or []
    return [clean_instruction(item.get("created_by") or "") for item in history if item.get("empty_layer")]


def _files(image: Image, index: int) -> dict[str, Any]:
    found = services.layer_files(image, index).get("files") or []
    tree = _tree(found)
    counts = {
        mark: sum(MARKS.get(str(file.get("change", file.get("kind", ""))), "") == mark for file in found)
        for mark in "ACD"
    }
    hidden = [file for file in found if file.get("hidden") or file.get("hidden_by") is not None]
    wasted = sum(_size(file) for file in hidden)
    return {
        "files": tree[:FILES_SHOWN],
        "counts": counts | {"hidden": len(hidden)},
        "wasted": wasted,
        "total": len(tree),
    }


def _size(file: dict[str, Any]) -> int:
    return int(file.get("size") or file.get("size_bytes") or 0)


def _tree(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return files below their folders, each folder with the bytes of all in it."""
    sums: dict[str, int] = {}
    for file in found:
        if file.get("kind") in ("directory", "dir") or file.get("type") == "directory":
            continue
        parts = str(file["path"]).strip("/").split("/")
        for depth in range(1, len(parts)):
            folder = "/".join(parts[:depth])
            sums[folder] = sums.get(folder, 0) + _size(file)
    largest = max([_size(file) for file in found] + list(sums.values()), default=1) or 1
    rows = []
    for file in sorted(found, key=lambda file: str(file["path"]).split("/")):
        path = str(file["path"]).strip("/")
        is_folder = file.get("kind") in ("directory", "dir") or file.get("type") == "directory"
        size = sums.get(path, _size(file)) if is_folder else _size(file)
        hidden = bool(file.get("hidden") or file.get("hidden_by") is not None)
        mark = "D" if hidden else MARKS.get(str(file.get("change", file.get("kind", ""))), "A")
        words = {"A": "added here", "C": "changed here", "D": "taken away here"}[mark]
        rows.append(
            {
                "path": path,
                "name": path.rsplit("/", 1)[-1] + ("/" if is_folder else ""),
                "depth": min(path.count("/"), DEEPEST),
                "mark": mark,
                "words": "written here, hidden by a later layer" if hidden else words,
                "size": size,
                "link": file.get("link") or "",
                "bar": draw_bar([(size, "warn" if hidden else 2)], largest),
            }
        )
    return rows


def waste_words(explored: dict[str, Any]) -> str:
    return (
        f"{size_text(explored['wasted'])} of it is written and then hidden by a later layer"
        if explored["wasted"]
        else ""
    )
