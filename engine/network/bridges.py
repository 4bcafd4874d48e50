"""Bridges on this host: made, repaired and removed to match the networks on record.

Every interface of ours carries the alias `wharfinger-<instance>:...`; an interface without it is never touched.
Kernel settings (Linux Documentation/networking/ip-sysctl.rst) are written where they differ, and said in the log.
"""

from __future__ import annotations

import errno
import hashlib
import logging
from ipaddress import ip_address
from pathlib import Path

from engine.errors import AlreadyExists
from engine.linux import links
from engine.linux.netlink import Netlink
from engine.network.model import Network

logger = logging.getLogger(__name__)

_SYSCTL = Path("/proc/sys/net")
_USUAL_MTU, _SMALLEST_MTU = 1500, 1280  # the smallest that IPv6 allows


def bridge_name(instance: str, network_id: str) -> str:
    """Return the name of a network's bridge: ours, this engine's, this network's, in 15 letters."""
    return f"wb{instance[:6]}{network_id[:7]}"


def veth_name(instance: str, container_id: str, network_id: str) -> str:
    """Return the name of the host's end of a container's interface on a network."""
    mark = hashlib.sha256(f"{container_id} {network_id}".encode()).hexdigest()[:7]
    return f"wv{instance[:6]}{mark}"


def alias(instance: str, kind: str, identity: str) -> str:
    """Return the mark of an interface: which engine's it is, and what for (`network` or `container`)."""
    return f"wharfinger-{instance}:{kind}:{identity}"


def ensure_bridge(route: Netlink, network: Network, mark: str) -> links.Link:
    """Make the bridge of a network, or put right what differs, and return it. Raises `AlreadyExists` for another's."""
    link = links.find_link(route, network.bridge)
    if link is None:
        mac = "02:42:" + hashlib.sha256(network.id.encode()).digest()[:4].hex(":")
        route.request(
            links.bridge(network.bridge, alias=mark, mac=mac, mtu=network.mtu or default_mtu(route))
        )
        link = links.find_link(route, network.bridge)
        if link is None:
            raise AlreadyExists(
                f"the bridge {network.bridge} of network {network.name!r} went away while it was made"
            )
        route.request(links.set_alias(link.index, mark))
    elif link.alias != mark:
        raise AlreadyExists(
            f"an interface {network.bridge} exists that is not the bridge of network {network.name!r}",
            hint=f"rename it, or name another bridge with the option {'com.docker.network.bridge.name'}",
        )
    _settings(network)
    have = {
        (address, prefix) for index, address, prefix in links.list_addresses(route) if index == link.index
    }
    for subnet in network.subnets:
        wanted = (ip_address(subnet.gateway), subnet.network.prefixlen)
        if wanted not in have:
            route.request(links.add_address(link.index, *wanted))
    if not link.up:
        route.request(links.set_up(link.index))
    return link


def default_mtu(route: Netlink) -> int:
    """Return the size of packets on the way to the world where it is smaller than usual (tunnels, clouds), else 0.

    Containers that believed in the usual 1500 bytes would depend on every router to tell them otherwise.
    """
    outward = {
        index for destination, index in links.list_routes(route) if destination in ("0.0.0.0/0", "::/0")
    }
    sizes = [link.mtu for link in links.list_links(route) if link.index in outward]
    smallest = min(sizes, default=_USUAL_MTU)
    return smallest if _SMALLEST_MTU <= smallest < _USUAL_MTU else 0


def remove_bridge(route: Netlink, name: str, mark: str) -> None:
    """Remove the bridge `name` if it carries `mark`; one that is not there counts as removed."""
    link = links.find_link(route, name)
    if link is not None and link.alias == mark:
        remove_link(route, link)


def remove_link(route: Netlink, link: links.Link) -> None:
    """Remove an interface; one that went away meanwhile counts as removed."""
    try:
        route.request(links.remove(link.index))
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise


def own_links(route: Netlink, instance: str) -> list[links.Link]:
    """Return the interfaces of this namespace that are this engine's."""
    prefix = f"wharfinger-{instance}:"
    return [link for link in links.list_links(route) if link.alias.startswith(prefix)]


def unmarked_links(route: Netlink, instance: str) -> list[links.Link]:
    """Return interfaces that were made for this engine and never marked: whoever made them was killed in between."""
    prefixes = (f"wb{instance[:6]}", f"wv{instance[:6]}")
    found = [link for link in links.list_links(route) if link.name.startswith(prefixes) and not link.alias]
    return [link for link in found if link.kind in ("bridge", "veth") and len(link.name) == 15]


def setting(name: str) -> str:
    """Return a kernel setting below `net`, like `ipv4/ip_forward`; empty where the kernel has none."""
    return _read(_SYSCTL / name)


def _settings(network: Network) -> None:
    for family in ("ipv4", "ipv6"):
        folder = _SYSCTL / family / "conf" / network.bridge
        if not folder.exists():
            continue
        write_setting(folder / "accept_redirects", "0")
        if family == "ipv4":
            write_setting(folder / "route_localnet", "1")
            write_setting(folder / "rp_filter", "1")
            write_setting(
                folder / "src_valid_mark", "1"
            )  # our routing rules ask for the mark, the reverse check too
        else:
            write_setting(folder / "accept_ra", "0")
            write_setting(folder / "disable_ipv6", "0" if network.ipv6 else "1")


def enable_forwarding(*, ipv6: bool) -> list[str]:
    """Let this host forward packets; return which settings of the host that changed (also said in the log)."""
    changed = []
    if write_setting(_SYSCTL / "ipv4/ip_forward", "1"):
        changed.append("net.ipv4.ip_forward")
    if ipv6 and _read(_SYSCTL / "ipv6/conf/all/forwarding") == "0":
        _keep_router_advertisements()
        write_setting(_SYSCTL / "ipv6/conf/all/forwarding", "1")
        changed.append("net.ipv6.conf.all.forwarding")
    for name in changed:
        logger.warning("switched %s on: containers reach the network through this host", name)
    return changed


def write_setting(path: Path, value: str) -> bool:
    """Write a kernel setting if it differs; return whether it did."""
    if _read(path) in (value, ""):
        return False
    path.write_text(value)
    return True


def _keep_router_advertisements() -> None:
    """Let interfaces that learn their routes by advertisement go on doing so: forwarding alone would end that."""
    for folder in (_SYSCTL / "ipv6/conf").iterdir():
        if folder.name not in ("all", "default", "lo") and _read(folder / "accept_ra") == "1":
            write_setting(folder / "accept_ra", "2")


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
