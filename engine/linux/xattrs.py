"""Extended attributes that travel with layers, and how they change when owners are mapped.

Kept are `user.*`, file capabilities and POSIX ACLs. Everything else is dropped: `trusted.overlay.*` would let an image
reach into other layers (AR-07), labels of security modules belong to the host.

Sources: linux/capability.h (`struct vfs_cap_data`, revisions 2 and 3), acl(5) and linux/posix_acl_xattr.h.
"""

from __future__ import annotations

import errno
import os
import struct

from engine.linux.idshift import IdShift

CAPABILITY = "security.capability"
_ACLS = ("system.posix_acl_access", "system.posix_acl_default")
_REVISION_MASK, _REVISION_2, _REVISION_3 = 0xFF000000, 0x02000000, 0x03000000
_ACL_ENTRY = struct.Struct("<HHI")
_ACL_USER, _ACL_GROUP = 0x02, 0x08


def may_travel(name: str) -> bool:
    """Tell whether an attribute of this name is read from or written to a layer."""
    return (
        (name.startswith("user.") and not name.startswith("user.overlay."))
        or name == CAPABILITY
        or name in _ACLS
    )


def mapped(name: str, value: bytes, shift: IdShift) -> bytes | None:
    """Return `value` as it must be stored for owners mapped by `shift`; None where it is malformed."""
    if name == CAPABILITY:
        return mapped_capability(value, shift)
    if name in _ACLS:
        return _mapped_acl(value, shift)
    return value


def mapped_capability(value: bytes, shift: IdShift) -> bytes | None:
    """Return file capabilities that are those of the root user 0 (revision 2), or of a mapped root (revision 3)."""
    if len(value) not in (20, 24):
        return None
    (magic,) = struct.unpack_from("<I", value)
    revision = magic & _REVISION_MASK
    if (revision, len(value)) not in ((_REVISION_2, 20), (_REVISION_3, 24)):
        return None
    root = struct.unpack_from("<I", value, 20)[0] if revision == _REVISION_3 else 0
    new_root = shift.apply(root)
    flags = magic & ~_REVISION_MASK
    if new_root == 0:
        return struct.pack("<I", flags | _REVISION_2) + value[4:20]
    return struct.pack("<I", flags | _REVISION_3) + value[4:20] + struct.pack("<I", new_root)


def _mapped_acl(value: bytes, shift: IdShift) -> bytes | None:
    if len(value) < 4 or (len(value) - 4) % _ACL_ENTRY.size or value[:4] != b"\x02\0\0\0":
        return None
    entries = []
    for tag, permissions, identity in _ACL_ENTRY.iter_unpack(value[4:]):
        entries.append(
            _ACL_ENTRY.pack(
                tag, permissions, shift.apply(identity) if tag in (_ACL_USER, _ACL_GROUP) else identity
            )
        )
    return value[:4] + b"".join(entries)


def read(path: str | int, shift: IdShift) -> dict[str, bytes]:
    """Return the attributes of `path` (a link itself, not what it leads to) that travel, mapped by `shift`."""
    try:
        names = os.listxattr(path) if isinstance(path, int) else os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENODATA):
            return {}
        raise
    found: dict[str, bytes] = {}
    for name in names:
        if may_travel(name):
            value = (
                os.getxattr(path, name)
                if isinstance(path, int)
                else os.getxattr(path, name, follow_symlinks=False)
            )
            if (kept := mapped(name, value, shift)) is not None:
                found[name] = kept
    return found
