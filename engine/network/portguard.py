"""The guard on a container's port of the bridge: what a container may not send, whatever the firewall says.

A packet filter on the host's end of the container's interface passes only frames with the container's own hardware and
network addresses. It drops: other senders' addresses, forged ARP and neighbour answers, router advertisements and
redirects, a DHCP server's answers, every protocol but IPv4, ARP and (on an IPv6 network) IPv6, and packets to
127.0.0.0/8. So a container may keep NET_RAW, which ping and others want: what it forges does not leave its port. The guard lives with the interface: a flushed firewall does not open it, and nothing is left to clean up.
Sources: tc-bpf(8), RFC 826 (ARP), RFC 4861 (neighbour discovery), RFC 4291 appendix A (interface identifiers).
"""

from __future__ import annotations

import os
import struct
from ipaddress import IPv4Address, IPv6Address

from engine.linux.bpf import Program, load_classifier
from engine.linux.netlink import NLM_F_CREATE, NLM_F_EXCL, Message, Netlink, attribute, nested

_NEWQDISC, _NEWTFILTER = 36, 44
_CLSACT, _CLSACT_HANDLE, _INGRESS = 0xFFFFFFF1, 0xFFFF0000, 0xFFFFFFF2
_ETH_P_ALL = 0x0003
_PASS, _DROP = 0, 2
_IPV4, _ARP, _IPV6 = 0x0800, 0x0806, 0x86DD
_UDP, _ICMPV6 = 17, 58
_DHCP_SERVER = 67
_ROUTER_ADVERTISEMENT, _NEIGHBOUR_ADVERTISEMENT, _REDIRECT = 134, 136, 137


def guard_port(route: Netlink, index: int, *, mac: str, ipv4: str, ipv6: str = "") -> None:
    """Put the guard on interface `index`. Raises `OSError` where the kernel cannot (no eBPF, no `clsact`)."""
    program = load_classifier(guard_code(mac=mac, ipv4=ipv4, ipv6=ipv6), "wharfinger")
    try:
        qdisc = struct.pack("=BBHiIII", 0, 0, 0, index, _CLSACT_HANDLE, _CLSACT, 0) + attribute(1, "clsact")
        info = 1 << 16 | int.from_bytes(struct.pack(">H", _ETH_P_ALL), "little")
        head = struct.pack("=BBHiIII", 0, 0, 0, index, 0, _INGRESS, info)
        options = nested(2, attribute(6, program), attribute(7, "wharfinger"), attribute(8, 1))
        route.request(
            Message(_NEWQDISC, qdisc, NLM_F_CREATE | NLM_F_EXCL, "guarding a bridge port"),
            Message(
                _NEWTFILTER,
                head + attribute(1, "bpf") + options,
                NLM_F_CREATE | NLM_F_EXCL,
                "guarding a bridge port",
            ),
        )
    finally:
        os.close(program)


def guard_code(*, mac: str, ipv4: str, ipv6: str = "") -> bytes:
    """Return the filter for one container; its addresses are constants in it."""
    hardware = bytes.fromhex(mac.replace(":", ""))
    program = Program()
    _is_sender(program, hardware, at=6)
    program.load(12, 2)
    if ipv4:
        program.if_equal(_IPV4, "ipv4")
        program.if_equal(_ARP, "arp")
    if ipv6:
        program.if_equal(_IPV6, "ipv6")
    program.jump("drop")
    if ipv4:
        _judge_ipv4(program, IPv4Address(ipv4))
        _judge_arp(program, hardware, IPv4Address(ipv4))
    if ipv6:
        _judge_ipv6(program, IPv6Address(ipv6), link_local(hardware))
    program.label("pass")
    program.verdict(_PASS)
    program.label("drop")
    program.verdict(_DROP)
    return program.assemble()


def link_local(hardware: bytes) -> IPv6Address:
    """Return the link-local address that the kernel makes from a hardware address."""
    identifier = bytes([hardware[0] ^ 2]) + hardware[1:3] + b"\xff\xfe" + hardware[3:]
    return IPv6Address(bytes.fromhex("fe80000000000000") + identifier)


def _is_sender(program: Program, hardware: bytes, *, at: int) -> None:
    program.load(at, 4)
    program.if_not_equal(int.from_bytes(hardware[:4], "big"), "drop")
    program.load(at + 4, 2)
    program.if_not_equal(int.from_bytes(hardware[4:], "big"), "drop")


def _judge_ipv4(program: Program, address: IPv4Address) -> None:
    program.label("ipv4")
    program.load(26, 4)
    program.if_not_equal(int(address), "drop")
    program.load(30, 4)
    program.mask(0xFF000000)
    program.if_equal(0x7F000000, "drop")
    program.load(23, 1)
    program.if_not_equal(_UDP, "pass")
    program.load(14, 1)
    program.mask(0x0F)
    program.shift_left(2)
    program.load_indexed(14, 2)
    program.if_equal(_DHCP_SERVER, "drop")
    program.jump("pass")


def _judge_arp(program: Program, hardware: bytes, address: IPv4Address) -> None:
    program.label("arp")
    _is_sender(program, hardware, at=22)
    program.load(28, 4)
    program.if_equal(int(address), "pass")
    program.if_equal(0, "pass")  # a probe before using an address names no sender
    program.jump("drop")


def _judge_ipv6(program: Program, address: IPv6Address, local: IPv6Address) -> None:
    program.label("ipv6")
    program.load(20, 1)
    program.if_not_equal(_ICMPV6, "sender6")
    program.load(54, 1)
    program.if_equal(_ROUTER_ADVERTISEMENT, "drop")
    program.if_equal(_REDIRECT, "drop")
    program.if_not_equal(_NEIGHBOUR_ADVERTISEMENT, "sender6")
    _is_one_of(program, (address, local), at=62, name="target", found="sender6")
    program.label("sender6")
    _is_one_of(program, (address, local, IPv6Address(0)), at=22, name="sender", found="pass")


def _is_one_of(
    program: Program, addresses: tuple[IPv6Address, ...], *, at: int, name: str, found: str
) -> None:
    """Go on at `found` when the 16 bytes at `at` are one of the addresses, else drop."""
    for index, address in enumerate(addresses):
        last = index == len(addresses) - 1
        otherwise = "drop" if last else f"{name}{index + 1}"
        program.label(f"{name}{index}")
        for offset in range(0, 16, 4):
            program.load(at + offset, 4)
            program.if_not_equal(int.from_bytes(address.packed[offset : offset + 4], "big"), otherwise)
        program.jump(found)
