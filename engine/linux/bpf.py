"""A small assembler for eBPF programs that judge packets, and the call that loads them.

Enough for a traffic-control classifier: loads from the packet, comparisons, jumps to labels, a verdict. Programs stay
short, so there is no compiler and nothing to ship. Sources: bpf(2), Linux Documentation/bpf/standardization/instruction-set.rst.
"""

from __future__ import annotations

import ctypes
import os
import struct
from dataclasses import dataclass

_PROG_LOAD, _TYPE_SCHED_CLS = 5, 3
_SYSCALLS = {
    "x86_64": 321,
    "aarch64": 280,
    "riscv64": 280,
    "armv7l": 386,
    "i686": 357,
    "ppc64le": 361,
    "s390x": 351,
}
_LICENSE = b"MIT\0"

_LD_ABS = {4: 0x20, 2: 0x28, 1: 0x30}
_LD_IND = {4: 0x40, 2: 0x48, 1: 0x50}
_JUMP, _EQUAL, _NOT_EQUAL, _AND, _SHIFT_LEFT = 0x05, 0x16, 0x56, 0x54, 0x64
_MOVE, _MOVE_REGISTER, _EXIT = 0xB7, 0xBF, 0x95

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class _Instruction:
    code: int
    registers: int = 0
    target: str = ""
    value: int = 0


class Program:
    """A program under construction. The packet is read into one register, which comparisons and `mask` then use.

    A read beyond the end of the packet ends the program with the verdict 0.
    """

    def __init__(self) -> None:
        self._code = [
            _Instruction(_MOVE_REGISTER, registers=0x16)
        ]  # r6 = r1: packet loads want the context there
        self._labels: dict[str, int] = {}

    def load(self, offset: int, size: int) -> None:
        """Read `size` bytes (1, 2 or 4) at `offset` from the beginning of the frame, in host order."""
        self._code.append(_Instruction(_LD_ABS[size], value=offset))

    def load_indexed(self, offset: int, size: int) -> None:
        """Read at `offset` plus what was read before."""
        self._code.append(_Instruction(_LD_IND[size], value=offset))

    def mask(self, value: int) -> None:
        self._code.append(_Instruction(_AND, value=value))

    def shift_left(self, bits: int) -> None:
        self._code.append(_Instruction(_SHIFT_LEFT, value=bits))

    def if_equal(self, value: int, label: str) -> None:
        self._code.append(_Instruction(_EQUAL, target=label, value=value))

    def if_not_equal(self, value: int, label: str) -> None:
        self._code.append(_Instruction(_NOT_EQUAL, target=label, value=value))

    def jump(self, label: str) -> None:
        self._code.append(_Instruction(_JUMP, target=label))

    def label(self, name: str) -> None:
        self._labels[name] = len(self._code)

    def verdict(self, value: int) -> None:
        """End the program with `value`."""
        self._code += [_Instruction(_MOVE, value=value), _Instruction(_EXIT)]

    def assemble(self) -> bytes:
        """Return the machine code."""
        packed = bytearray()
        for position, item in enumerate(self._code):
            distance = self._labels[item.target] - position - 1 if item.target else 0
            packed += struct.pack("=BBhI", item.code, item.registers, distance, item.value & 0xFFFFFFFF)
        return bytes(packed)


def load_classifier(code: bytes, name: str) -> int:
    """Load a traffic-control classifier; return its descriptor. Raises `OSError` where the kernel does not take it."""
    buffer, licence = ctypes.create_string_buffer(code, len(code)), ctypes.create_string_buffer(_LICENSE)
    attributes = struct.pack(
        "=IIQQIIQII16s", _TYPE_SCHED_CLS, len(code) // 8, ctypes.addressof(buffer), ctypes.addressof(licence), 0, 0, 0, 0, 0,
        name.encode()[:15],
    )  # fmt: skip
    number = _SYSCALLS.get(os.uname().machine)
    if number is None:
        raise OSError(38, "loading a packet filter: unknown machine")
    descriptor = int(_libc.syscall(number, _PROG_LOAD, attributes, ctypes.c_uint(len(attributes))))
    if descriptor < 0:
        code_number = ctypes.get_errno()
        raise OSError(code_number, f"loading a packet filter: {os.strerror(code_number)}")
    return descriptor
