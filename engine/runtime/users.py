"""Who a process is: `user[:group]` texts resolved with the `passwd` and `group` files *inside* a root.

The files are foreign bytes: opened with the root as root directory, regular files only, at most 1 MiB, never through the C
library (which would load modules by name). Digits are always a number, never a name, so a line in an image's `passwd`
cannot turn `1000` into root; what does not fit into a container's ids is refused.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from engine.errors import BadSpec
from engine.linux.files import open_in_root, opened

_LIMIT_BYTES = 1024 * 1024
_MAX_ID = 2**31 - 1
_MAX_LENGTH = 256


@dataclass(frozen=True)
class UserIds:
    """The numbers that a process runs with; `home` and `name` come from `passwd`, empty when it says nothing."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    home: str = ""
    name: str = ""


@dataclass(frozen=True)
class _Account:
    name: str
    uid: int
    gid: int
    home: str


def resolve_user(
    root_fd: int, user: str, extra_groups: Sequence[str] = (), *, max_id: int = _MAX_ID
) -> UserIds:
    """Resolve `user[:group]` inside the root; ids above `max_id` are refused. Empty means root.

    As Docker does it: without a group the account's own and every group that lists it; with one only that group.
    Raises `BadSpec` naming what is unknown.
    """
    if len(user) > _MAX_LENGTH or any(character in user for character in "\0\n"):
        raise BadSpec(f"not a user: {user[:64]!r}")
    who, colon, group = user.partition(":")
    accounts = list(_accounts(root_fd))
    account = _account(accounts, who or "0", max_id)
    groups: dict[str, tuple[int, list[str]]] = {}
    if group or extra_groups or account.name:
        groups = {name: (gid, members) for name, gid, members in _groups(root_fd)}
    if colon and group:
        gid, supplementary = _group(groups, group, max_id), []
    else:
        gid = account.gid
        supplementary = [
            number for number, members in groups.values() if account.name and account.name in members
        ]
    supplementary += [_group(groups, name, max_id) for name in extra_groups]
    unique = tuple(dict.fromkeys(number for number in supplementary if number <= max_id))
    if gid > max_id:
        raise BadSpec(f"group {gid} of user {user!r} is above the highest id {max_id} of a container")
    return UserIds(account.uid, gid, unique, account.home, account.name)


def user_names(root_fd: int) -> dict[int, str]:
    """Return the names of the users inside the root, by number; of two with one number the first."""
    names: dict[int, str] = {}
    for account in _accounts(root_fd):
        names.setdefault(account.uid, account.name)
    return names


def _account(accounts: list[_Account], who: str, max_id: int) -> _Account:
    if who.isascii() and who.isdigit():
        number = _number(who, "user", max_id)
        for account in accounts:
            if account.uid == number:
                return account
        return _Account("", number, 0, "")
    for account in accounts:
        if account.name == who:
            return _Account(who, _number(str(account.uid), "user", max_id), account.gid, account.home)
    raise BadSpec(f"no user {who!r} in the container", hint="name one of its /etc/passwd, or give a number")


def _group(groups: dict[str, tuple[int, list[str]]], name: str, max_id: int) -> int:
    if name.isascii() and name.isdigit():
        return _number(name, "group", max_id)
    if name not in groups:
        raise BadSpec(
            f"no group {name!r} in the container", hint="name one of its /etc/group, or give a number"
        )
    return _number(str(groups[name][0]), "group", max_id)


def _number(text: str, what: str, max_id: int) -> int:
    if len(text) > 10 or int(text) > max_id:
        raise BadSpec(f"{what} {text[:20]} is above the highest id {max_id} of a container")
    return int(text)


def _accounts(root_fd: int) -> Iterator[_Account]:
    for fields in _lines(root_fd, "/etc/passwd", 4):
        if _is_number(fields[2]) and _is_number(fields[3]):
            yield _Account(fields[0], int(fields[2]), int(fields[3]), fields[5] if len(fields) > 5 else "")


def _groups(root_fd: int) -> Iterator[tuple[str, int, list[str]]]:
    for fields in _lines(root_fd, "/etc/group", 3):
        if _is_number(fields[2]):
            yield (
                fields[0],
                int(fields[2]),
                [name for name in (fields[3] if len(fields) > 3 else "").split(",") if name],
            )


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10


def _lines(root_fd: int, path: str, least_fields: int) -> Iterator[list[str]]:
    for line in read_small_file(root_fd, path).decode(errors="replace").splitlines():
        fields = line.strip().split(":")
        if len(fields) >= least_fields and fields[0] and not fields[0].startswith("#"):
            yield fields


def read_small_file(root_fd: int, path: str, limit_bytes: int = _LIMIT_BYTES) -> bytes:
    """Read a regular file inside the root; one that is not there is empty. Raises `BadSpec` for another kind or size."""
    try:
        # O_PATH opens nothing yet: neither a FIFO that would wait nor a device that would act
        place = open_in_root(root_fd, path, os.O_PATH)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return b""
        raise
    with opened(place):
        if not stat.S_ISREG(os.fstat(place).st_mode):
            raise BadSpec(f"{path} in the container is not a regular file")
        with open(f"/proc/self/fd/{place}", "rb") as file:
            data = file.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise BadSpec(f"{path} in the container is larger than {limit_bytes} bytes")
    return data
