"""A container's end of a network: its namespace, and the interface in it.

`plug` costs about 2 ms. Taking an interface away waits for the kernel's grace periods (10-20 ms), so `unplug` leaves it
to the end of the namespace where that is near.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from engine.containers.model import Endpoint
from engine.errors import WrongState
from engine.linux import links
from engine.linux.mount import MS_BIND, LinuxMounts, Mounts
from engine.linux.netlink import NETLINK_ROUTE, Netlink, in_netns, in_thread, unshare_netns
from engine.network.bridges import write_setting

logger = logging.getLogger(__name__)

_SYSCTL = Path("/proc/sys/net")
_FORWARDING_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class Plug:
    """What connects a namespace with a bridge. `metric` orders default routes, the lowest wins; -1: none."""

    bridge: links.Link
    veth: str
    ifname: str
    mark: str
    metric: int = 0
    isolated: bool = False


def make_netns(path: Path, mounts: Mounts | None = None) -> None:
    """Pin a new network namespace, loopback up, to the file `path`. It is owned by the host's user namespace.

    For a container that has a user namespace of its own use `engine.linux.userns.make_userns(netns=...)`: only then is
    its root also master of this namespace.
    """
    mounts = mounts or LinuxMounts()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.touch(mode=0o600)

    def pin() -> None:
        unshare_netns()
        mounts.mount(f"/proc/self/task/{threading.get_native_id()}/ns/net", str(path), "none", MS_BIND)
        with Netlink(NETLINK_ROUTE) as route:
            route.request(links.set_up(1))

    try:
        in_thread(pin)
    except BaseException:
        remove_netns(path, mounts)
        raise


def remove_netns(path: Path, mounts: Mounts | None = None) -> None:
    """Unpin a network namespace. The kernel ends it later, and every interface in it, when no process is left. Idempotent."""
    (mounts or LinuxMounts()).unmount(str(path), detach=True)
    path.unlink(missing_ok=True)


def plug(route: Netlink, netns: Path, endpoint: Endpoint, wanted: Plug) -> links.Link:
    """Make the pair of interfaces between the bridge and the namespace and give the inner one its addresses and routes.

    Returns the outer one. What is left of an earlier try that failed is removed first.
    """
    descriptor = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    try:
        new = links.veth(
            wanted.veth, master=wanted.bridge.index, peer=wanted.ifname, peer_netns=descriptor,
            peer_mac=endpoint.mac_address, mtu=wanted.bridge.mtu, alias=wanted.mark,
        )  # fmt: skip
        in_netns(descriptor, lambda: _prepare(endpoint))
        try:
            route.request(new)
        except FileExistsError:
            unplug(route, wanted.veth, wanted.mark)
            route.request(new)
        outer = links.find_link(route, wanted.veth)
        if outer is None:
            raise WrongState(f"the interface {wanted.veth} went away while it was plugged in")
        route.request(
            links.set_alias(outer.index, wanted.mark),
            links.set_port(outer.index, hairpin=True, isolated=wanted.isolated),
        )
        in_netns(descriptor, lambda: _configure(endpoint, wanted))
        _wait_until_forwarding(route, wanted.veth)
        return outer
    except BaseException:
        with suppress(OSError):
            unplug(route, wanted.veth, wanted.mark)
        raise
    finally:
        os.close(descriptor)


def unplug(route: Netlink, veth: str, mark: str, index: int = 0) -> None:
    """Remove an interface pair by its outer end, if it carries our mark (and is the one of that `index`).

    Idempotent; takes 10-20 ms.
    """
    link = links.find_link(route, veth)
    if link is not None and link.alias in (mark, "") and index in (0, link.index):
        with suppress(ProcessLookupError, OSError):
            route.request(links.remove(link.index))


def _wait_until_forwarding(route: Netlink, name: str) -> None:
    """Wait until the bridge passes packets of the new port: the kernel looks at its state a moment after it is up."""
    deadline = time.monotonic() + _FORWARDING_TIMEOUT_S
    while time.monotonic() < deadline:
        link = links.find_link(route, name)
        if link is not None and link.forwarding:
            return
        time.sleep(0.0003)
    logger.warning(
        "the interface %s does not pass packets %s s after it was set up", name, _FORWARDING_TIMEOUT_S
    )


def _prepare(endpoint: Endpoint) -> None:
    """Decide about IPv6 before the interface is there, so it never has an address that nobody asked for."""
    conf = _SYSCTL / "ipv6/conf"
    if not conf.exists():
        return
    write_setting(conf / "default/disable_ipv6", "0" if endpoint.ipv6_address else "1")
    write_setting(conf / "default/accept_ra", "0")
    write_setting(conf / "default/accept_dad", "0")


def _configure(endpoint: Endpoint, wanted: Plug) -> None:
    with Netlink(NETLINK_ROUTE) as inner:
        link = links.find_link(inner, wanted.ifname)
        if link is None:
            raise WrongState(f"the interface {wanted.ifname} went away while it was plugged in")
        messages = [links.set_up(1)]
        if endpoint.ipv4_address:
            messages.append(
                links.add_address(link.index, ip_address(endpoint.ipv4_address), endpoint.ipv4_prefix)
            )
        if endpoint.ipv6_address:
            messages.append(
                links.add_address(link.index, ip_address(endpoint.ipv6_address), endpoint.ipv6_prefix)
            )
        messages.append(links.set_up(link.index))
        if wanted.metric >= 0:
            for gateway in (endpoint.gateway, endpoint.ipv6_gateway):
                if gateway:
                    messages.append(
                        links.default_route(link.index, ip_address(gateway), metric=wanted.metric)
                    )
        inner.request(*messages)
