"""Addresses of git repositories as Dockerfiles and builds write them: `https://host/repo.git#branch:folder`, `git@host:repo`.

An address with `http(s)` is a repository only when its path ends in `.git`; an scp-like one needs its `user@`.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit, urlunsplit

from engine.errors import InvalidInput

_PROTOCOL = re.compile(r"[a-zA-Z0-9]+://")
_SCP = re.compile(r"([a-zA-Z0-9-_]+)@([a-zA-Z0-9-.]+):(.*?)(?:\?(.*?))?(?:#(.*))?\Z")
_TRUE = ("1", "t", "T", "true", "TRUE", "True")
_FALSE = ("0", "f", "F", "false", "FALSE", "False")


class BadGitReference(InvalidInput):
    """The address is one of a repository, but its options contradict each other or are unknown."""


@dataclass
class GitReference:
    """A repository and what to take of it. `local_looking`: `github.com/...` could as well be a path of the context."""

    remote: str
    short_name: str
    ref: str = ""
    subdir: str = ""
    checksum: str = ""
    local_looking: bool = False
    unencrypted: bool = False
    keep_git_dir: bool | None = None
    submodules: bool | None = None
    mtime: str = ""
    fetch_by_commit: bool = False


def parse_git_reference(text: str) -> GitReference | None:
    """Return the repository that `text` names, None if it names none; raise `BadGitReference` for wrong options."""
    if text.startswith(("./", "../")):
        return None
    local_looking = text.startswith("github.com/")
    split = _split_url("https://" + text) if local_looking else _split(text)
    if split is None:
        return None
    scheme, remote, path, query, fragment = split
    if not local_looking and scheme in ("http", "https") and not path.endswith(".git"):
        return None
    if local_looking:
        remote = remote.partition("://")[2]
    short_name = remote.rsplit("/", 1)[-1].removesuffix(".git")
    reference = GitReference(
        remote, short_name, local_looking=local_looking, unencrypted=scheme in ("http", "git")
    )
    ref, _, subdir = fragment.partition(":")
    reference.ref, reference.subdir = ref, posixpath.normpath("/" + subdir).lstrip("/") if fragment else ""
    _apply_query(reference, query)
    return reference


def _split(text: str) -> tuple[str, str, str, str, str] | None:
    if _PROTOCOL.match(text):
        return _split_url(text)
    match = _SCP.match(text)
    if not match:
        return None
    return "ssh", f"{match[1]}@{match[2]}:{match[3]}", match[3], match[4] or "", match[5] or ""


def _split_url(text: str) -> tuple[str, str, str, str, str] | None:
    try:
        parts = urlsplit(text)
    except ValueError:
        return None
    if parts.scheme not in ("http", "https", "ssh", "git"):
        return None
    remote = urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))
    return parts.scheme, remote, parts.path, parts.query, parts.fragment


def _apply_query(reference: GitReference, query: str) -> None:
    options: dict[str, str] = {}
    for key, values in parse_qs(query, keep_blank_values=True).items():
        if len(values) > 1:
            raise BadGitReference(f'query "{key}" has multiple values')
        if not values[0] and key not in ("submodules", "keep-git-dir", "fetch-by-commit"):
            raise BadGitReference(f'query "{key}" has no value')
        options[key] = values[0]
    for key, value in options.items():
        if key not in ("tag", "branch"):
            _option(reference, key, value)
    if "tag" in options and "branch" in options:
        raise BadGitReference("branch conflicts with tag")
    for key, prefix in (("tag", "refs/tags/"), ("branch", "refs/heads/")):
        if key in options:
            value = options[key]
            _agree(reference, "ref", value if value.startswith(prefix) else prefix + value)


def _option(reference: GitReference, key: str, value: str) -> None:
    setter = _OPTIONS.get(key)
    if setter is None:
        raise BadGitReference(f'unexpected query "{key}"')
    setter(reference, key, value)


def _agree(reference: GitReference, name: str, value: str) -> None:
    present = getattr(reference, name)
    if present and present != value:
        raise BadGitReference(f'{name} conflicts: "{present}" vs "{value}"')
    setattr(reference, name, value)


def _mtime(reference: GitReference, key: str, value: str) -> None:
    if value not in ("checkout", "commit"):
        raise BadGitReference(f'invalid mtime value: "{value}" (must be "checkout" or "commit")')
    reference.mtime = value


def _truth(reference: GitReference, key: str, value: str) -> None:
    if value and value not in _TRUE + _FALSE:
        raise BadGitReference(f'invalid {key} value: "{value}"')
    setattr(reference, key.replace("-", "_"), not value or value in _TRUE)


def _checksum(reference: GitReference, key: str, value: str) -> None:
    reference.checksum = value


def _same(name: str) -> Callable[[GitReference, str, str], None]:
    return lambda reference, key, value: _agree(reference, name, value)


_OPTIONS: dict[str, Callable[[GitReference, str, str], None]] = {
    "ref": _same("ref"),
    "subdir": _same("subdir"),
    "checksum": _checksum,
    "commit": _checksum,
    "keep-git-dir": _truth,
    "submodules": _truth,
    "mtime": _mtime,
    "fetch-by-commit": _truth,
}
