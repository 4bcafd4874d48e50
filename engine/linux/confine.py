"""Taking rights away from this process for good: its root, its mounts, its capabilities, its calls, its resources.

For processes of one thread that do one dangerous thing and end. Nothing here needs `/proc`, and nothing can be undone.
Sources: unshare(2), pivot_root(2), chroot(2), capset(2), prctl(2), getrlimit(2), seccomp(2),
linux/capability.h, linux/audit.h, linux/filter.h; the numbers of system calls: asm/unistd_64.h, asm-generic/unistd.h.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
import sys

from engine.linux.mount import MNT_DETACH, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_PRIVATE, MS_RDONLY, MS_REC

CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID, CAP_SETFCAP = 0, 1, 3, 4, 31

_CLONE_NEWNS = 0x00020000
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION_3 = 0x20080522

_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050001  # SECCOMP_RET_ALLOW; SECCOMP_RET_ERRNO with EPERM
_X32 = 0x40000000

# system calls that start or steer processes, mount, leave the root, speak to a network or load code into the kernel
_CALLS = (
    "clone fork vfork clone3 execve execveat ptrace kill tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo "
    "pidfd_open pidfd_getfd pidfd_send_signal process_vm_readv process_vm_writev unshare setns chroot pivot_root "
    "mount umount2 open_tree move_mount fsopen fsconfig fsmount fspick mount_setattr open_by_handle_at "
    "socket connect bind io_uring_setup bpf perf_event_open userfaultfd keyctl add_key request_key "
    "init_module finit_module delete_module kexec_load kexec_file_load reboot swapon"
).split()
_X86_64 = (
    56, 57, 58, 435, 59, 322, 101, 62, 200, 234, 129, 297,
    434, 438, 424, 310, 311, 272, 308, 161, 155,
    165, 166, 428, 429, 430, 431, 432, 433, 442, 304,
    41, 42, 49, 425, 321, 298, 323, 250, 248, 249,
    175, 313, 176, 246, 320, 169, 167,
)  # fmt: skip
_GENERIC = (
    220, -1, -1, 435, 221, 281, 117, 129, 130, 131, 138, 240,
    434, 438, 424, 270, 271, 97, 268, 51, 41,
    40, 39, 428, 429, 430, 431, 432, 433, 442, 265,
    198, 203, 200, 425, 280, 241, 282, 219, 217, 218,
    105, 273, 106, 104, 294, 142, 224,
)  # fmt: skip
_MACHINES = {
    "x86_64": (0xC000003E, _X86_64),
    "aarch64": (0xC00000B7, _GENERIC),
    "riscv64": (0xC00000F3, _GENERIC),
}
FORBIDDEN_CALLS = {
    machine: {name: number for name, number in zip(_CALLS, numbers, strict=True) if number >= 0}
    for machine, (_, numbers) in _MACHINES.items()
}

_libc = ctypes.CDLL(None, use_errno=True)


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))


def die_with_parent(parent: int) -> None:
    """Be killed when the process `parent`, which forked this one, ends; also when it has ended already."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def own_mounts() -> None:
    """Enter a mount namespace of this process's own, from which nothing reaches another one."""
    _check(_libc.unshare(_CLONE_NEWNS), "unshare")
    _check(_libc.mount(None, b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None), "/")


def empty_root() -> None:
    """Make an empty, read-only folder the root, and let go of every other mount. Needs `own_mounts` before.

    Descriptors that are open, or come later, go on leading to where they led.
    """
    flags = MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY
    # any folder that is there serves to hold the mount; nobody else sees it
    _check(_libc.mount(b"none", b"/proc", b"tmpfs", ctypes.c_ulong(flags), b"size=4k,mode=0555"), "/proc")
    os.chdir("/proc")
    _check(
        _libc.pivot_root(b".", b"."), "pivot_root"
    )  # the old root now lies on the new one: pivot_root(2), notes
    _check(_libc.umount2(b".", MNT_DETACH), "umount")
    os.chdir("/")


def enter_root(directory: int) -> None:
    """Make an open directory the root and the working directory."""
    os.fchdir(directory)
    os.chroot(".")


def keep_capabilities(kept: tuple[int, ...]) -> None:
    """Drop every capability but these; they count at once."""
    mask = sum(1 << number for number in kept)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0))
    sets = ctypes.create_string_buffer(struct.pack("=6I", low, low, 0, high, high, 0), 24)
    _check(_libc.capset(header, sets), "capset")


def limit_resources(*, cpu_s: int, memory_bytes: int, file_bytes: int, descriptors: int) -> None:
    """Bound this process: CPU seconds, address space, size of a file, open files; it dumps no core.

    A count of processes would say nothing: the kernel does not apply it to root. `forbid_calls` refuses to make any.
    """
    for kind, value in (
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_NOFILE, descriptors),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (bound, bound))


def forbid_calls() -> None:
    """Refuse (EPERM) what starts or steers processes, mounts, leaves the root, or speaks to a network, from now on.

    New privileges by set-user-id programs are given up too. On a machine whose numbers are not known here, only that is done.
    """
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    code = _assembled(os.uname().machine)
    if not code:
        return
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _Filter(len(code) // 8, ctypes.addressof(buffer))
    result = _libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), ctypes.byref(program), 0, 0)
    _check(result, "seccomp")


def _assembled(machine: str) -> bytes:
    """Return the filter: a load of the machine, a load of the number, one comparison a call; empty if unknown."""
    if machine not in _MACHINES or sys.maxsize < 2**32:
        return b""
    architecture = _MACHINES[machine][0]
    numbers = sorted(FORBIDDEN_CALLS[machine].values())
    last = len(numbers) + 1  # instructions between the comparison with x32 and the refusal
    code = [
        (_LOAD, 0, 0, 4),
        (_EQUAL, 0, last + 2, architecture),
        (_LOAD, 0, 0, 0),
        (_AT_LEAST, last, 0, _X32),
    ]
    code += [(_EQUAL, last - index - 1, 0, number) for index, number in enumerate(numbers)]
    code += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _REFUSE)]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _prctl(option: int, value: int) -> None:
    _check(_libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0), "prctl")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
