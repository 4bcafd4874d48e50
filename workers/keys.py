"""The file of a node's key, and sealing with it.

`$WHARFINGER_HOME/keys/node-<name>.key` holds 64 hex digits, mode 0640, owner root, group `wharfinger`: the node's processes and the
web account read it, nobody else. A node on another machine gets a copy when it joins.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from workers.contracts.names import GROUP, check_node
from workers.contracts.signing import KEY_BYTES, BadSignature, NodeKey
from workers.contracts.values import dumps, loads

DEFAULT_HOME = Path("/var/lib/wharfinger")
_NONCE_BYTES = 12


def home_folder() -> Path:
    """Return `WHARFINGER_HOME` or its default."""
    return Path(os.environ.get("WHARFINGER_HOME") or DEFAULT_HOME)


def key_path(home: Path, node: str) -> Path:
    return home / "keys" / f"node-{check_node(node)}.key"


def load_key(home: Path, node: str) -> NodeKey:
    """Read a node's key; raises `FileNotFoundError` or `PermissionError` naming the file."""
    return NodeKey(node, bytes.fromhex(key_path(home, node).read_text().strip()))


def make_key(home: Path, node: str) -> NodeKey:
    """Make the key file of a node unless it is there, and return the key. Needs root where the group exists."""
    path = key_path(home, node)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
    with contextlib.suppress(LookupError, PermissionError):
        shutil.chown(path.parent, group=GROUP)
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(KEY_BYTES) + "\n")
        file.flush()
        os.fsync(file.fileno())
    with contextlib.suppress(LookupError, PermissionError):
        shutil.chown(fresh, group=GROUP)
    try:
        os.link(fresh, path)  # unlike a rename this never replaces a key that somebody made meanwhile
    except FileExistsError:
        pass
    finally:
        fresh.unlink()
    return load_key(home, node)


def seal(key: NodeKey, values: dict[str, object], about: str) -> str:
    """Encrypt JSON values for the node. `about` (the operation's id) is bound to the text: it opens for nothing else."""
    if not values:
        return ""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return (nonce + AESGCM(key.derive("seal")).encrypt(nonce, dumps(values).encode(), about.encode())).hex()


def unseal(key: NodeKey, text: str, about: str) -> dict[str, object]:
    """Return what was sealed, else raise `BadSignature`."""
    if not text:
        return {}
    try:
        data = bytes.fromhex(text)
        plain = AESGCM(key.derive("seal")).decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], about.encode())
    except (ValueError, InvalidTag) as error:
        raise BadSignature("sealed values do not open with this node's key") from error
    values = loads(plain)
    if not isinstance(values, dict):
        raise BadSignature("sealed values are no object")
    return values
