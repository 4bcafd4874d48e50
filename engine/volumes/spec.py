"""Mounts as people write them: `-v`, `--mount` and `--tmpfs`. Forms and refusals are Docker's.

-v [NAME|/HOST/PATH:]/PATH[:OPTION,...]
--mount type=volume,source=NAME,target=/PATH,readonly
--tmpfs /PATH[:size=64m,mode=1777,...]
"""

from __future__ import annotations

import csv
import io
import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from engine.containers.model import MountSpec
from engine.errors import BadSpec

PROPAGATIONS = ("private", "rprivate", "shared", "rshared", "slave", "rslave")
TMPFS_DEFAULTS = ("noexec", "nosuid", "nodev")

_MODES = {
    "access": ("ro", "rw"),
    "propagation": PROPAGATIONS,
    "label": ("z", "Z"),
    "copy": ("nocopy",),
    "consistency": ("consistent", "cached", "delegated"),
}
_TMPFS_FLAGS = {
    "defaults", "ro", "rw", "suid", "nosuid", "dev", "nodev", "exec", "noexec", "sync", "async", "dirsync", "remount", "mand",
    "nomand", "atime", "noatime", "diratime", "nodiratime", "bind", "rbind", "relatime", "norelatime", "strictatime",
    "nostrictatime",
}  # fmt: skip
_TMPFS_VALUES = {"size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol"}
_OPPOSITES = {"exec": "noexec", "suid": "nosuid", "dev": "nodev", "ro": "rw"}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kmgtp]?)(?:i?b)?\Z", re.IGNORECASE)
_FORMAT_HINT = "write it as NAME:/path, /host/path:/path or /path, with :ro at the end to make it read-only"


@dataclass(frozen=True)
class ParsedMount:
    """A mount and what was asked of the volume's driver beside it."""

    mount: MountSpec
    driver: str = ""
    driver_options: dict[str, str] = field(default_factory=dict)


def parse_volume(text: str) -> MountSpec:
    """Return the mount that one `-v` value asks for; raise `BadSpec`."""
    source, target, mode = _split(text)
    options = _parse_mode(mode)
    if not target.startswith("/"):
        kind = "bind" if source.startswith("/") else "volume"
        problem = f"invalid mount config for type \"{kind}\": invalid mount path: '{target}' mount path must be absolute"
        raise BadSpec(f"invalid volume specification: '{text}': {problem}")
    target = posixpath.normpath(target)
    if target == "/":
        raise BadSpec(f"invalid volume specification: '{text}': the destination cannot be '/'")
    if source.startswith("/"):
        return MountSpec(
            "bind", target, posixpath.normpath(source), read_only="ro" in options,
            propagation=_propagation(options) or "rprivate", create_source=True,
        )  # fmt: skip
    if _propagation(options):
        raise BadSpec(f"invalid volume specification: '{text}'", hint="propagation is for host paths only")
    return MountSpec("volume", target, source, read_only="ro" in options, nocopy="nocopy" in options)


def parse_tmpfs(text: str) -> MountSpec:
    """Return the mount that one `--tmpfs` value asks for; raise `BadSpec`."""
    target, _, options = text.partition(":")
    if not target.startswith("/") or posixpath.normpath(target) == "/":
        raise BadSpec(f"invalid tmpfs path: '{target[:200]}'", hint="the path is absolute and not /")
    return check_tmpfs(
        MountSpec(
            "tmpfs", posixpath.normpath(target), tmpfs_options=[part for part in options.split(",") if part]
        )
    )


def check_tmpfs(spec: MountSpec) -> MountSpec:
    """Return `spec` if its tmpfs options are known, else raise `BadSpec`."""
    for option in spec.tmpfs_options:
        name, equals, value = option.partition("=")
        known = name in (_TMPFS_VALUES if equals else _TMPFS_FLAGS)
        if not known or (equals and not value) or any(character in option for character in ",\n\\\0"):
            raise BadSpec(f"invalid tmpfs option {option[:100]!r}")
        if name == "size" and value != "0" and not value.endswith("%"):
            parse_size(value)
    return spec


def tmpfs_options(spec: MountSpec) -> list[str]:
    """Return the mount options of a tmpfs: safe defaults, then what was asked for, contradictions left out."""
    asked = list(check_tmpfs(spec).tmpfs_options)
    if spec.read_only:
        asked.append("ro")
    if spec.tmpfs_size_bytes:
        asked.append(f"size={_short(spec.tmpfs_size_bytes)}")
    if spec.tmpfs_mode:
        asked.append(f"mode={spec.tmpfs_mode:o}")
    contradicted = {_OPPOSITES.get(option, "") for option in asked}
    return [option for option in TMPFS_DEFAULTS if option not in contradicted and option not in asked] + asked


def parse_mount(text: str) -> ParsedMount:
    """Return the mount that one `--mount` value asks for; raise `BadSpec` naming the field."""
    if not text:
        raise BadSpec("value is empty")
    fields = next(csv.reader(io.StringIO(text), strict=True))
    found = ParsedMount(MountSpec("volume", ""))
    prefixes: list[str] = []
    for item in fields:
        key, value = _key_and_value(item)
        found = _with_field(found, key, value, item)
        prefixes += [kind for kind in ("bind", "volume", "tmpfs", "image") if key.startswith(f"{kind}-")]
    return _checked(found, prefixes)


def parse_size(text: str) -> int:
    """Return a size like `64m` or `1.5GiB` in bytes (units of 1024); raise `BadSpec`."""
    match = _SIZE.match(text)
    if match is None:
        raise BadSpec(f"invalid size: '{text[:40]}'", hint="write it as 64m or 1g")
    return int(float(match[1]) * 1024 ** "_kmgtp".index(match[2].lower() or "_"))


def _split(text: str) -> tuple[str, str, str]:
    parts = text.split(":")
    invalid = BadSpec(f"invalid volume specification: '{text}'", hint=_FORMAT_HINT)
    if not 1 <= len(parts) <= 3 or not all(parts):
        raise invalid
    if len(parts) == 1:
        return "", parts[0], ""
    if len(parts) == 2:
        if _is_mode(parts[1]):
            raise invalid  # a mount of the path "ro" is never what was meant
        return parts[0], parts[1], ""
    return parts[0], parts[1], parts[2]


def _parse_mode(mode: str) -> set[str]:
    if mode and not _is_mode(mode):
        raise BadSpec(
            f"invalid mode: {mode}", hint="modes are ro, rw, z, Z, nocopy and a propagation, each once"
        )
    return set(mode.split(",")) if mode else set()


def _is_mode(text: str) -> bool:
    """Tell whether a text is made of options only, at most one of each kind."""
    seen: set[str] = set()
    for option in text.split(","):
        kind = next((kind for kind, options in _MODES.items() if option in options), "")
        if not kind or kind in seen:
            return False
        seen.add(kind)
    return True


def _propagation(options: set[str]) -> str:
    return next((option for option in options if option in PROPAGATIONS), "")


def _key_and_value(item: str) -> tuple[str, str | None]:
    key, equals, value = item.partition("=")
    if key != key.strip():
        raise BadSpec(f"invalid option '{key.strip()}' in '{item}': option should not have whitespace")
    if equals:
        if not value:
            raise BadSpec(f"invalid value for '{key}': value is empty")
        if value != value.strip():
            raise BadSpec(f"invalid value for '{key}' in '{item}': value should not have whitespace")
        return key.lower(), value
    if key.lower() not in ("readonly", "ro", "volume-nocopy", "bind-nonrecursive", "bind-create-src"):
        raise BadSpec(f"invalid field '{item}' must be a key=value pair")
    return key.lower(), None


def _with_field(found: ParsedMount, key: str, value: str | None, item: str) -> ParsedMount:
    mount, text = found.mount, value or ""
    match key:
        case "type":
            mount = replace(mount, type=text.lower())
        case "source" | "src":
            mount = replace(mount, source=text)
        case "target" | "dst" | "destination":
            mount = replace(mount, target=text)
        case "readonly" | "ro":
            mount = replace(mount, read_only=_boolean(key, value))
        case "volume-nocopy":
            mount = replace(mount, nocopy=_boolean(key, value))
        case "volume-subpath" | "image-subpath":
            mount = replace(mount, subpath=text)
        case "bind-propagation":
            mount = replace(mount, propagation=_one_of(key, text.lower(), PROPAGATIONS))
        case "bind-create-src":
            mount = replace(mount, create_source=_boolean(key, value))
        case "bind-nonrecursive":
            _boolean(key, value)
        case "bind-recursive":
            _one_of(key, text, ("enabled", "disabled", "writable", "readonly"))
        case "consistency":
            _one_of(key, text.lower(), ("default", *_MODES["consistency"]))
        case "tmpfs-size":
            mount = replace(mount, tmpfs_size_bytes=_number(key, text, parse_size))
        case "tmpfs-mode":
            mount = replace(mount, tmpfs_mode=_number(key, text, lambda digits: int(digits, 8)))
        case "volume-label":
            mount = replace(mount, labels={**mount.labels, **_pair(text)})
        case "volume-driver":
            return replace(found, driver=text)
        case "volume-opt":
            return replace(found, driver_options={**found.driver_options, **_pair(text)})
        case _:
            raise BadSpec(f"unknown option '{key}' in '{item}'")
    return replace(found, mount=mount)


def _checked(found: ParsedMount, prefixes: Sequence[str]) -> ParsedMount:
    mount = found.mount
    if mount.type not in ("volume", "bind", "tmpfs", "image", "npipe", "cluster"):
        raise BadSpec(f"unknown mount type '{mount.type[:40]}'", hint="types are volume, bind and tmpfs")
    for kind in prefixes:
        if kind != mount.type:
            raise BadSpec(f"cannot mix '{kind}-*' options with mount type '{mount.type}'")
    if not mount.target:
        raise BadSpec("target is required")
    return found


def check_mount(mount: MountSpec) -> None:
    """Raise `BadSpec` for a mount whose fields cannot be together, whoever wrote it."""
    if mount.type not in ("volume", "bind", "tmpfs"):
        raise BadSpec(f"mount type unknown: {mount.type[:40]!r}", hint="types are volume, bind and tmpfs")
    if not mount.target:
        raise BadSpec(f"field Target must not be empty in a mount of type {mount.type}")
    if "\0" in mount.target + mount.source + mount.subpath:
        raise BadSpec("a path must not hold a zero byte")
    if mount.type == "bind" and not mount.source:
        raise BadSpec("field Source must not be empty in a mount of type bind")
    if mount.type != "volume" and (mount.nocopy or mount.labels or mount.subpath):
        raise BadSpec(f"field VolumeOptions must not be specified in a mount of type {mount.type}")
    if mount.type != "bind" and (mount.propagation or mount.create_source):
        raise BadSpec(f"field BindOptions must not be specified in a mount of type {mount.type}")
    if mount.type != "tmpfs" and (mount.tmpfs_size_bytes or mount.tmpfs_mode or mount.tmpfs_options):
        raise BadSpec(f"field TmpfsOptions must not be specified in a mount of type {mount.type}")
    if mount.type == "tmpfs" and mount.source:
        raise BadSpec("field Source must not be specified in a mount of type tmpfs")
    if mount.propagation and mount.propagation not in PROPAGATIONS:
        raise BadSpec(f"invalid propagation {mount.propagation[:40]!r}")


def _boolean(key: str, value: str | None) -> bool:
    if value is None or value in ("true", "1"):
        return True
    if value in ("false", "0"):
        return False
    allowed = 'must be one of "true", "1", "false", or "0" (default "true")'
    raise BadSpec(f"invalid value for '{key}': invalid boolean value (\"{value}\"): {allowed}")


def _one_of(key: str, value: str, allowed: Sequence[str]) -> str:
    if value not in allowed:
        raise BadSpec(f"invalid value for {key}: {value}", hint=f"it is one of {', '.join(allowed)}")
    return value


def _number(key: str, text: str, convert: object) -> int:
    try:
        return int(convert(text))  # type: ignore[operator]
    except (ValueError, BadSpec):
        raise BadSpec(f"invalid value for {key}: {text}") from None


def _pair(text: str) -> dict[str, str]:
    key, _, value = text.partition("=")
    return {key: value} if key else {}


def _short(size: int) -> str:
    """Return a size in the largest unit that divides it."""
    for unit, factor in (("g", 1024**3), ("m", 1024**2), ("k", 1024)):
        if size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)
