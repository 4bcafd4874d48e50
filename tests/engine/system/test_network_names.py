"""Names: who is found by which name, from where, at which moment; and what is passed on to the world."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import dnslib
import pytest

from engine.config import EngineConfig
from engine.containers.model import Container, ContainerSpec, EndpointSpec, Status
from engine.db import Database
from engine.linux import links
from engine.linux.netlink import NETLINK_ROUTE, Netlink, in_netns
from engine.network import SCHEMA, NetworkManager, NetworkSpec
from engine.network.dns import DnsServer
from engine.network.tester import Outcome, Trial
from tests.support.netlab import NEIGHBOUR, FakeContainer, Lab, container, lab

pytestmark = pytest.mark.root


@pytest.fixture
def machine(tmp_path: Path, engine_config: EngineConfig) -> Iterator[Lab]:
    with lab(tmp_path) as found:
        yield found


@pytest.fixture
def config(engine_config: EngineConfig) -> EngineConfig:
    return replace(engine_config, dns_upstreams=(NEIGHBOUR,))


@pytest.fixture
def manager(config: EngineConfig, machine: Lab) -> NetworkManager:
    found = NetworkManager(config, Database(config.database, [SCHEMA]))
    found.restore()
    return found


@pytest.fixture
def server(config: EngineConfig, manager: NetworkManager) -> Iterator[DnsServer]:
    """A running server, as the agent has it: in an event loop of its own."""
    loop = asyncio.new_event_loop()
    found: list[DnsServer] = []
    started = threading.Event()

    def run() -> None:
        found.append(DnsServer(config, Database(config.database, [SCHEMA])))
        loop.run_until_complete(found[0].start())
        started.set()
        loop.run_forever()
        loop.run_until_complete(found[0].stop())
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    assert started.wait(5)
    yield found[0]
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


@pytest.fixture
def new(manager: NetworkManager, server: DnsServer, tmp_path: Path) -> Iterator[Callable[..., FakeContainer]]:
    made: list[FakeContainer] = []

    def make(network: str, name: str, *aliases: str, **options: object) -> FakeContainer:
        spec = EndpointSpec(network, aliases=list(aliases))
        made.append(container(manager, tmp_path, len(made), network=network, spec=spec, name=name, **options))
        return made[-1]

    yield make
    for item in made:
        manager.release(item.id)
        manager.remove_netns(item.netns)


@pytest.fixture
def make_network(manager: NetworkManager, server: DnsServer) -> Callable[..., str]:
    def make(name: str, **options: object) -> str:
        network = manager.create(NetworkSpec(name, **options))
        deadline = time.monotonic() + 2
        while network.subnets[0].gateway not in server.listening and time.monotonic() < deadline:
            time.sleep(0.01)
        return name

    return make


@pytest.fixture
def app(make_network: Callable[..., str]) -> str:
    return make_network("app")


def lookup(asker: FakeContainer, name: str, kind: str = "A", *, tcp: bool = False) -> tuple[str, list[str]]:
    """Ask the gateway from inside a container; return the code and the sorted values."""
    question = dnslib.DNSRecord.question(name, kind)
    raw = asker.run(
        lambda: question.send(asker.endpoint.gateway or gateway_of(asker), 53, tcp=tcp, timeout=3)
    )
    reply = dnslib.DNSRecord.parse(raw)
    assert reply.header.id == question.header.id
    return dnslib.RCODE[reply.header.rcode], sorted(str(record.rdata) for record in reply.rr)


def gateway_of(asker: FakeContainer) -> str:
    return asker.address.rpartition(".")[0] + ".1"


def test_container_is_found_by_name_alias_host_name_and_short_id(app: str, new) -> None:
    web, db = new(app, "web"), new(app, "db", "postgres")
    for name in ("db", "DB", "db.", "postgres", db.id[:12], "db.app", "postgres.app"):
        assert lookup(web, name) == ("NOERROR", [db.address]), name
    assert lookup(web, "web") == ("NOERROR", [web.address])


def test_answers_come_over_tcp_too(app: str, new) -> None:
    web, db = new(app, "web"), new(app, "db")
    assert lookup(web, "db", tcp=True) == ("NOERROR", [db.address])


def test_shared_alias_has_the_addresses_of_all_its_members(app: str, new) -> None:
    one, two = new(app, "one", "api"), new(app, "two", "api")
    assert lookup(one, "api") == ("NOERROR", sorted([one.address, two.address]))


def test_name_without_such_an_address_is_known_but_empty(app: str, new) -> None:
    """Resolvers that ask for A and AAAA at once take NXDOMAIN for either as "no such name"."""
    web = new(app, "web")
    assert lookup(web, "web", "AAAA") == ("NOERROR", [])
    assert lookup(web, "web", "MX") == ("NOERROR", [])


def test_ipv6_addresses_are_answered_and_looked_up_backwards(make_network, new) -> None:
    make_network("six", ipv6=True)
    web, db = new("six", "web", "both"), new("six", "db", "both")
    assert lookup(web, "db", "AAAA") == ("NOERROR", [db.endpoint.ipv6_address])
    assert lookup(web, "db", "A") == ("NOERROR", [db.address])
    assert lookup(web, "both", "AAAA", tcp=True)[1] == sorted(box.endpoint.ipv6_address for box in (web, db))
    backwards = ip_address(db.endpoint.ipv6_address).reverse_pointer
    assert lookup(web, backwards, "PTR") == ("NOERROR", ["db.six."])


def test_reverse_lookup_names_container_and_network(app: str, new) -> None:
    web, db = new(app, "web"), new(app, "db")
    assert lookup(web, ip_address(db.address).reverse_pointer, "PTR") == ("NOERROR", ["db.app."])
    assert lookup(web, ip_address("10.201.4.200").reverse_pointer, "PTR") == ("NXDOMAIN", [])


def test_names_of_other_networks_are_unknown(app: str, new, make_network) -> None:
    """NW-02: a name is no secret, but whoever cannot reach it shall not learn its address."""
    make_network("other")
    web = new(app, "web")
    new("other", "hidden")
    assert lookup(web, "hidden") == ("NXDOMAIN", [])


def test_name_is_there_with_the_first_instruction_and_gone_with_the_container(
    app: str, new, manager: NetworkManager
) -> None:
    web = new(app, "web")
    assert lookup(web, "late") == ("NXDOMAIN", [])
    late = new(app, "late")
    assert lookup(web, "late") == ("NOERROR", [late.address])
    manager.rename(late.id, "later")
    assert lookup(web, "later") == ("NOERROR", [late.address])
    manager.release(late.id)
    assert lookup(web, "later") == ("NXDOMAIN", [])


def test_container_on_two_networks_sees_the_names_of_both(
    app: str, new, make_network, manager: NetworkManager
) -> None:
    make_network("back")
    web, db = new(app, "web"), new("back", "db")
    assert lookup(web, "db")[0] == "NXDOMAIN"
    endpoint = manager.attach(web.netns, web.id, manager.allocate("back", web.id, name="web"))
    assert lookup(web, "db") == ("NOERROR", [db.address])
    assert lookup(db, "web") == ("NOERROR", [endpoint.ipv4_address])
    manager.detach(web.id, "back")
    assert lookup(web, "db")[0] == "NXDOMAIN"


def test_rest_of_the_world_is_asked_of_the_resolvers_of_the_host(app: str, new, machine: Lab) -> None:
    world = _world(machine)
    web = new(app, "web")
    assert lookup(web, "example.com") == ("NOERROR", ["203.0.113.7"])
    assert lookup(web, "example.com", tcp=True) == ("NOERROR", ["203.0.113.7"])
    assert world == ["example.com.", "example.com."]


def test_bare_name_that_is_no_container_is_not_asked_of_the_world(app: str, new, machine: Lab) -> None:
    world = _world(machine)
    assert lookup(new(app, "web"), "nobody") == ("NXDOMAIN", [])
    assert world == []


def test_internal_network_asks_nobody_outside(new, make_network, machine: Lab) -> None:
    """NW-06: no tunnel by DNS (CVE-2024-29018)."""
    world = _world(machine)
    make_network("vault", internal=True)
    one, two = new("vault", "one"), new("vault", "two")
    assert lookup(one, "two") == ("NOERROR", [two.address])
    assert lookup(one, "example.com") == ("NXDOMAIN", [])
    assert world == []


def test_nobody_but_containers_is_answered(app: str, new) -> None:
    web = new(app, "web")
    reply = dnslib.DNSRecord.parse(dnslib.DNSRecord.question("web").send(web.endpoint.gateway, 53, timeout=3))
    assert dnslib.RCODE[reply.header.rcode] == "REFUSED"


def test_many_answers_that_do_not_fit_are_cut_and_come_whole_by_tcp(
    app: str, new, manager: NetworkManager
) -> None:
    web = new(app, "web")
    for number in range(40):
        endpoint = manager.allocate(
            app, f"{number:064x}", EndpointSpec(app, aliases=["many"]), name=f"m{number}"
        )
        assert endpoint
    with Database(manager._config.database).transaction() as connection:
        connection.execute("UPDATE endpoints SET active = 1")
    raw = web.run(lambda: dnslib.DNSRecord.question("many").send(web.endpoint.gateway, 53, timeout=3))
    assert dnslib.DNSRecord.parse(raw).header.tc
    assert len(raw) <= 512
    assert len(lookup(web, "many", tcp=True)[1]) == 40
    for number in range(40):
        manager.release(f"{number:064x}")


def test_gateway_survives_rubbish(app: str, new) -> None:
    web = new(app, "web")

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for data in (
                b"",
                b"\0",
                bytes(12),
                b"\xff" * 512,
                bytes(11) + b"\x01" + b"\x3f" * 20,
                b"\x12\x34\x01\0\0\1" + bytes(6),
            ):
                sock.sendto(data, (web.endpoint.gateway, 53))

    web.run(send)
    assert lookup(web, "web") == ("NOERROR", [web.address])


def test_tester_tells_names_apart(app: str, new, make_network, manager: NetworkManager, machine: Lab) -> None:
    make_network("back")
    web, db = new(app, "web"), new("back", "db")
    machine.serve(web.netns, 80)

    def attempt(target: str) -> Trial:
        record = Container(
            web.id, "web", ContainerSpec("i"), "", "", Status.RUNNING, 0.0, endpoints=[web.endpoint]
        )
        return manager.try_connection(record, web.netns, target, 80)

    assert attempt("web").outcome is Outcome.OK
    assert attempt("web").addresses == [web.address]
    assert attempt("nobody").outcome is Outcome.NAME_UNKNOWN
    assert attempt("db").outcome is Outcome.OTHER_NETWORK
    assert "connect the container to back" in attempt("db").hint
    assert attempt(db.address).outcome is Outcome.OTHER_NETWORK


def _world(machine: Lab) -> list[str]:
    """Let the neighbour be a resolver that knows every name; return the list of what it is asked."""
    asked: list[str] = []
    with Netlink(NETLINK_ROUTE) as route:
        assert links.find_link(route, "lan0")

    def reply(data: bytes) -> bytes:
        question = dnslib.DNSRecord.parse(data)
        asked.append(str(question.q.qname))
        answer = question.reply()
        answer.add_answer(dnslib.RR(question.q.qname, rdata=dnslib.A("203.0.113.7"), ttl=60))
        return bytes(answer.pack())

    def udp(sock: socket.socket) -> None:
        try:
            while True:
                data, peer = sock.recvfrom(4096)
                if not data:
                    return  # the end of the test
                sock.sendto(reply(data), peer)
        except OSError:
            return

    def tcp(sock: socket.socket) -> None:
        try:
            while True:
                client, _ = sock.accept()
                with client:
                    size = int.from_bytes(client.recv(2), "big")
                    answer = reply(client.recv(size))
                    client.sendall(len(answer).to_bytes(2, "big") + answer)
        except OSError:
            return

    def bind() -> tuple[socket.socket, socket.socket]:
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagrams.bind((NEIGHBOUR, 53))
        return datagrams, socket.create_server((NEIGHBOUR, 53))

    datagrams, streams = in_netns(machine.neighbour, bind)
    machine.servers += [datagrams, streams]
    threading.Thread(target=udp, args=(datagrams,), daemon=True).start()
    threading.Thread(target=tcp, args=(streams,), daemon=True).start()
    return asked
