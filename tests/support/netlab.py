"""A small network to test in: this machine's part is a namespace of its own, with a neighbour on its LAN.

    neighbour 192.0.2.9  ──  192.0.2.1 "machine" (the engine under test works here)  ──  bridges  ──  containers

The test's thread itself moves into the machine's namespace, so nothing of the real host is touched.
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar

from engine.containers.model import Endpoint, EndpointSpec, PortBinding, PortSpec
from engine.linux import links
from engine.linux.netlink import NETLINK_ROUTE, Netlink, in_netns, set_netns
from engine.network import NetworkManager
from engine.network.interfaces import make_netns, remove_netns

T = TypeVar("T")

MACHINE, NEIGHBOUR = "198.51.100.1", "198.51.100.9"
MACHINE6, NEIGHBOUR6 = "2001:db8:51::1", "2001:db8:51::9"
TIMEOUT_S = 3.0  # generous: the machine may be busy
SILENCE_S = 0.4  # how long nothing must come where nothing may come


@dataclass
class Lab:
    """The machine (where the test runs), its LAN neighbour and a folder for more namespaces."""

    machine: Path
    neighbour: Path
    folder: Path
    servers: list[socket.socket] = field(default_factory=list)

    def on_neighbour(self, work: Callable[[], T]) -> T:
        return in_netns(self.neighbour, work)

    def neighbour_hears_nothing(self, address: str, port: int, *, udp: bool = False) -> bool:
        """Tell whether a server's answer fails to come to the neighbour."""
        answer = self.on_neighbour(lambda: ask(address, port, udp=udp, timeout_s=SILENCE_S))
        return not answer.startswith("hello")

    def serve(
        self, netns: Path, port: int, *, answer: bytes = b"hello", address: str = "", udp: bool = False
    ) -> None:
        """Answer on a port inside a namespace until the end of the test, with `answer` and who asked."""
        sock = in_netns(netns, lambda: _bound(port, address, udp))
        self.servers.append(sock)
        work = _serve_udp if udp else _serve_tcp
        threading.Thread(target=work, args=(sock, answer), daemon=True).start()


@dataclass
class FakeContainer:
    """A namespace that stands for a container of the engine under test."""

    id: str
    netns: Path
    endpoint: Endpoint
    bindings: list[PortBinding]

    @property
    def address(self) -> str:
        return self.endpoint.ipv4_address

    def run(self, work: Callable[[], T]) -> T:
        return in_netns(self.netns, work)

    def ask(self, address: str, port: int, *, udp: bool = False, timeout_s: float = TIMEOUT_S) -> str:
        """Return what a server answers to this container; see `ask`."""
        return in_netns(self.netns, lambda: ask(address, port, udp=udp, timeout_s=timeout_s))

    def hears_nothing(self, address: str, port: int, *, udp: bool = False) -> bool:
        """Tell whether a server's answer fails to come to this container."""
        return not self.ask(address, port, udp=udp, timeout_s=SILENCE_S).startswith("hello")


@contextmanager
def lab(folder: Path) -> Iterator[Lab]:
    """Move this thread into a machine of its own for the time of the block."""
    outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    found = Lab(folder / "machine", folder / "neighbour", folder)
    make_netns(found.machine)
    make_netns(found.neighbour)
    try:
        with found.machine.open("rb") as machine:
            set_netns(machine.fileno())
        _wire(found)
        yield found
    finally:
        for sock in found.servers:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        set_netns(outside)
        os.close(outside)
        remove_netns(found.machine)
        remove_netns(found.neighbour)


def container(
    manager: NetworkManager,
    folder: Path,
    number: int,
    *,
    network: str = "bridge",
    spec: EndpointSpec | None = None,
    ports: list[PortSpec] | None = None,
    name: str = "",
) -> FakeContainer:
    """Take a namespace through what the engine does for a container."""
    identity = f"{number:02x}{os.urandom(31).hex()}"
    bindings = manager.hold(identity, ports or [], name=name)
    netns = folder / f"netns-{identity[:8]}"
    manager.make_netns(netns)
    try:
        endpoint = manager.allocate(
            network, identity, spec, name=name or f"c{number}", hostname=identity[:12]
        )
        endpoint = manager.attach(netns, identity, endpoint)
        manager.publish(identity, endpoint, bindings)
    except BaseException:
        manager.release(identity)
        manager.remove_netns(netns)
        raise
    return FakeContainer(identity, netns, endpoint, bindings)


def ask(address: str, port: int, *, udp: bool = False, source: str = "", timeout_s: float = TIMEOUT_S) -> str:
    """Return a server's answer, or why there is none: `refused`, `timeout`, `unreachable`."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout_s)
        try:
            if source:
                sock.bind((source, 0))
            sock.connect((address, port))
            if udp:
                sock.send(b"?")
            return sock.recv(4096).decode()
        except TimeoutError:
            return "timeout"
        except ConnectionError:
            return "refused"
        except OSError:
            return "unreachable"


def ask_loopback_of_machine(box: FakeContainer, port: int) -> str:
    """Send to 127.0.0.1 by way of the gateway, as a container with all rights over its namespace can."""

    def prepare() -> None:
        with Netlink(NETLINK_ROUTE) as route:
            route.request(links.set_down(1))
        Path("/proc/sys/net/ipv4/conf/eth0/route_localnet").write_text("1")

    box.run(prepare)
    # a rule before that of the local table: its own address stays local, 127.0.0.1 lies behind the gateway
    for words in (
        f"route add 127.0.0.1/32 via {box.endpoint.gateway} table 77",
        "rule add pref 1 to 127.0.0.1 lookup 77",
        "rule add pref 2 lookup local",
        "rule del pref 0",
    ):
        subprocess.run(["nsenter", f"--net={box.netns}", "ip", *words.split()], check=True)
    return box.run(lambda: ask("127.0.0.1", port, source=box.address, timeout_s=SILENCE_S))


def _bound(port: int, address: str, udp: bool) -> socket.socket:
    if udp:
        sock = socket.socket(
            socket.AF_INET6 if not address or ":" in address else socket.AF_INET, socket.SOCK_DGRAM
        )
        sock.bind((address or "::", port))
        return sock
    if address:
        return socket.create_server(
            (address, port), family=socket.AF_INET6 if ":" in address else socket.AF_INET
        )
    return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)


def _serve_tcp(sock: socket.socket, answer: bytes) -> None:
    with suppress(OSError):
        while True:
            client, peer = sock.accept()
            with client:
                client.sendall(answer + b" " + peer[0].removeprefix("::ffff:").encode())


def _serve_udp(sock: socket.socket, answer: bytes) -> None:
    with suppress(OSError):
        while True:
            _, peer = sock.recvfrom(100)
            if peer is None:
                return  # the end of the test
            sock.sendto(answer + b" " + peer[0].removeprefix("::ffff:").encode(), peer)


def _wire(found: Lab) -> None:
    with found.neighbour.open("rb") as neighbour, Netlink(NETLINK_ROUTE) as route:
        route.request(links.bridge("lan0", alias="lab", mac="02:00:00:00:00:01"))
        lan = links.find_link(route, "lan0")
        assert lan is not None
        route.request(
            links.veth(
                "lan1",
                master=lan.index,
                peer="eth0",
                peer_netns=neighbour.fileno(),
                peer_mac="02:00:00:00:00:09",
            ),
            links.add_address(lan.index, ip_address(MACHINE), 24),
            links.add_address(lan.index, ip_address(MACHINE6), 64),
            links.set_up(lan.index),
        )

    def there() -> None:
        with Netlink(NETLINK_ROUTE) as route:
            eth0 = links.find_link(route, "eth0")
            assert eth0 is not None
            route.request(
                links.add_address(eth0.index, ip_address(NEIGHBOUR), 24),
                links.add_address(eth0.index, ip_address(NEIGHBOUR6), 64),
                links.set_up(eth0.index),
                links.default_route(eth0.index, ip_address(MACHINE)),
                links.default_route(eth0.index, ip_address(MACHINE6)),
            )

    in_netns(found.neighbour, there)
