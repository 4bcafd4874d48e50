"""The tables of networks: networks, memberships (endpoints) and published ports.

The row of an endpoint exists while a container holds addresses on a network; `active` says that its interface is there
and its names are answered. The row of a port exists while a container holds the port.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from ipaddress import ip_address

from engine.containers.model import PortBinding
from engine.db import Schema
from engine.errors import NetworkNotFound
from engine.network.model import Member, Network, Subnet

SCHEMA = Schema(
    "networks",
    (
        """CREATE TABLE networks (
            id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, bridge TEXT NOT NULL UNIQUE, record TEXT NOT NULL,
            last_ipv4 TEXT NOT NULL DEFAULT '', last_ipv6 TEXT NOT NULL DEFAULT '') STRICT""",
        """CREATE TABLE endpoints (
            network_id TEXT NOT NULL REFERENCES networks (id), container_id TEXT NOT NULL, name TEXT NOT NULL,
            hostname TEXT NOT NULL, aliases TEXT NOT NULL, dns TEXT NOT NULL, ipv4 TEXT NOT NULL, ipv6 TEXT NOT NULL,
            mac TEXT NOT NULL,
            ifname TEXT NOT NULL DEFAULT '', veth TEXT NOT NULL DEFAULT '', active INTEGER NOT NULL DEFAULT 0,
            PRIMARY KEY (network_id, container_id)) STRICT""",
        "CREATE UNIQUE INDEX endpoints_ipv4 ON endpoints (network_id, ipv4) WHERE ipv4 != ''",
        "CREATE UNIQUE INDEX endpoints_ipv6 ON endpoints (network_id, ipv6) WHERE ipv6 != ''",
        "CREATE INDEX endpoints_container ON endpoints (container_id)",
        """CREATE TABLE ports (
            container_id TEXT NOT NULL, protocol TEXT NOT NULL, host_ip TEXT NOT NULL, host_port INTEGER NOT NULL,
            container_port INTEGER NOT NULL, name TEXT NOT NULL DEFAULT '', target TEXT NOT NULL DEFAULT '',
            PRIMARY KEY (protocol, host_ip, host_port)) STRICT""",
        "CREATE INDEX ports_container ON ports (container_id)",
        "CREATE INDEX ports_number ON ports (host_port)",
        # tells the resolver, which looks before every answer, whether names may have changed
        "CREATE TABLE names_version (value INTEGER NOT NULL) STRICT",
        "INSERT INTO names_version VALUES (0)",
        *(
            f"""CREATE TRIGGER {table}_{action} AFTER {action} ON {table}
                BEGIN UPDATE names_version SET value = value + 1; END"""
            for table in ("networks", "endpoints")
            for action in ("insert", "update", "delete")
        ),
    ),
)


@dataclass(frozen=True)
class EndpointRow:
    """A membership as the engine keeps it. `veth` is the host's end of the interface."""

    network_id: str
    container_id: str
    name: str
    hostname: str
    aliases: list[str]
    dns: list[str]
    ipv4: str
    ipv6: str
    mac: str
    ifname: str = ""
    veth: str = ""
    active: bool = False


@dataclass(frozen=True)
class PortRow:
    """A port that a container holds; `target` is the container's address while the port is published, else empty."""

    container_id: str
    binding: PortBinding
    name: str
    target: str


def insert_network(connection: sqlite3.Connection, network: Network) -> None:
    record = json.dumps(asdict(replace(network, members=[])))
    connection.execute(
        "INSERT INTO networks (id, name, bridge, record) VALUES (?, ?, ?, ?)",
        (network.id, network.name, network.bridge, record),
    )


def select_networks(connection: sqlite3.Connection) -> list[Network]:
    """Return every network, the default one first, then by age; without members."""
    return [_network(row) for row in connection.execute("SELECT record FROM networks ORDER BY rowid")]


def select_network(connection: sqlite3.Connection, ref: str) -> Network:
    """Return the network with the name, id or unique id prefix `ref`, without members; else raise `NetworkNotFound`."""
    row = connection.execute("SELECT record FROM networks WHERE name = ? OR id = ?", (ref, ref)).fetchone()
    if row is None and len(ref) >= 2 and ref.isalnum():
        rows = connection.execute(
            "SELECT record FROM networks WHERE id GLOB ? LIMIT 2", (ref + "*",)
        ).fetchall()
        if len(rows) > 1:
            raise NetworkNotFound(
                f"several networks have ids that begin with {ref}", hint="give more digits of the id"
            )
        row = rows[0] if rows else None
    if row is None:
        raise NetworkNotFound(
            f"no network {ref[:80]!r} on this node", hint="list networks to see their names"
        )
    return _network(row)


def insert_endpoint(connection: sqlite3.Connection, row: EndpointRow) -> None:
    connection.execute(
        """INSERT INTO endpoints (network_id, container_id, name, hostname, aliases, dns, ipv4, ipv6, mac)
           VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)""",
        (
            row.network_id, row.container_id, row.name, row.hostname, json.dumps(row.aliases), json.dumps(row.dns),
            row.ipv4, row.ipv6, row.mac,
        ),
    )  # fmt: skip


def select_endpoints(
    connection: sqlite3.Connection, *, network_id: str = "", container_id: str = ""
) -> list[EndpointRow]:
    """Return the endpoints of a network, of a container, of both, or all of them."""
    rows = connection.execute(
        "SELECT * FROM endpoints WHERE (? = '' OR network_id = ?) AND (? = '' OR container_id = ?) ORDER BY rowid",
        (network_id, network_id, container_id, container_id),
    )
    return [_endpoint(row) for row in rows]


def select_endpoint(connection: sqlite3.Connection, network_id: str, container_id: str) -> EndpointRow | None:
    row = connection.execute(
        "SELECT * FROM endpoints WHERE network_id = ? AND container_id = ?", (network_id, container_id)
    ).fetchone()
    return None if row is None else _endpoint(row)


def used_addresses(connection: sqlite3.Connection, network_id: str) -> dict[str, set[str]]:
    """Return the addresses in use on a network, by kind: `ipv4`, `ipv6`, `mac`."""
    used: dict[str, set[str]] = {"ipv4": set(), "ipv6": set(), "mac": set()}
    for row in connection.execute(
        "SELECT ipv4, ipv6, mac FROM endpoints WHERE network_id = ?", (network_id,)
    ):
        for kind in used:
            if row[kind]:
                used[kind].add(row[kind])
    return used


def select_port_holders(connection: sqlite3.Connection, protocol: str, host_port: int) -> list[PortRow]:
    """Return who holds a host port, on whichever address."""
    rows = connection.execute(
        "SELECT * FROM ports WHERE protocol = ? AND host_port = ?", (protocol, host_port)
    )
    return [_port(row) for row in rows]


def select_ports(connection: sqlite3.Connection, container_id: str = "") -> list[PortRow]:
    """Return the ports held by a container, or by all."""
    if container_id:
        rows = connection.execute(
            "SELECT * FROM ports WHERE container_id = ? ORDER BY rowid", (container_id,)
        )
    else:
        rows = connection.execute("SELECT * FROM ports ORDER BY rowid")
    return [_port(row) for row in rows]


def insert_ports(
    connection: sqlite3.Connection, container_id: str, name: str, bindings: Iterable[PortBinding]
) -> None:
    connection.executemany(
        "INSERT INTO ports (container_id, protocol, host_ip, host_port, container_port, name) VALUES (?, ?, ?, ?, ?, ?)",
        [
            (container_id, item.protocol, item.host_ip, item.host_port, item.container_port, name)
            for item in bindings
        ],
    )


def member_of(row: EndpointRow, network: Network) -> Member:
    """Return an endpoint as other people see it."""
    ipv4, ipv6 = network.subnet_of(4), network.subnet_of(6)
    return Member(
        row.container_id,
        row.name,
        f"{row.ipv4}/{ipv4.network.prefixlen}" if row.ipv4 and ipv4 else "",
        f"{row.ipv6}/{ipv6.network.prefixlen}" if row.ipv6 and ipv6 else "",
        row.mac,
        row.aliases,
    )


def _network(row: sqlite3.Row) -> Network:
    values = json.loads(row["record"])
    values["subnets"] = [Subnet(**subnet) for subnet in values["subnets"]]
    return Network(**{**values, "members": []})


def _endpoint(row: sqlite3.Row) -> EndpointRow:
    return EndpointRow(
        row["network_id"], row["container_id"], row["name"], row["hostname"], json.loads(row["aliases"]),
        json.loads(row["dns"]), row["ipv4"], row["ipv6"], row["mac"], row["ifname"], row["veth"], bool(row["active"]),
    )  # fmt: skip


def _port(row: sqlite3.Row) -> PortRow:
    binding = PortBinding(row["container_port"], row["protocol"], row["host_ip"], row["host_port"])
    return PortRow(row["container_id"], binding, row["name"], row["target"])


def canonical(address: str) -> str:
    """Return an address in the one form in which it is stored and compared."""
    return str(ip_address(address))
