"""The directory of names: who asks, and what the names mean to them.

Read from the tables of memberships through a connection of its own and kept in memory until SQLite says that some
process has changed the file (`PRAGMA data_version`, 5 µs a question), so a change is seen by the next question.

A container is known on each of its networks by its name, its aliases, its host name and the first 12 digits of its id,
each also with the network's name behind (`db.backend`). On the default network there are no names, as with Docker.
"""

from __future__ import annotations

import json
import random
import sqlite3
from collections import defaultdict
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path

from engine.network.model import DEFAULT_NETWORK, IPNetwork


@dataclass(frozen=True)
class Asker:
    """The container behind an address: the networks that it is on, whether it may ask the world, its own resolvers."""

    container_id: str
    networks: tuple[str, ...]
    outside: bool
    resolvers: tuple[str, ...] = ()


@dataclass
class _Snapshot:
    askers: dict[str, Asker] = field(default_factory=dict)
    names: dict[str, dict[str, list[tuple[str, str]]]] = field(
        default_factory=dict
    )  # network id → name → (v4, v6)
    network_names: dict[str, str] = field(default_factory=dict)
    pointers: dict[tuple[str, str], str] = field(default_factory=dict)  # (network id, address) → full name
    subnets: list[tuple[str, IPNetwork]] = field(default_factory=list)
    gateways: list[str] = field(default_factory=list)


class Directory:
    """Names of one engine's containers. For one thread."""

    def __init__(self, database: Path) -> None:
        self._connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True, isolation_level=None)
        self._connection.row_factory = sqlite3.Row
        self._version = -1  # SQLite's: grows when another connection has written anything
        self._names_version = -1
        self._snapshot = _Snapshot()

    def close(self) -> None:
        self._connection.close()

    @property
    def gateways(self) -> list[str]:
        """The addresses on which questions are to be answered."""
        return self._current().gateways

    def asker(self, address: str) -> Asker | None:
        """Return the container that has the address, None for everybody else."""
        return self._current().askers.get(address)

    def lookup(self, asker: Asker, name: str) -> tuple[list[str], list[str]] | None:
        """Return the (IPv4, IPv6) addresses of a name as the asker may see it, in random order; None: no such name."""
        snapshot = self._current()
        found: list[tuple[str, str]] = []
        for network in asker.networks:
            names = snapshot.names.get(network, {})
            suffix = "." + snapshot.network_names[network].lower()
            found += names.get(name) or names.get(name.removesuffix(suffix), []) if name != suffix else []
        if not found:
            return None
        random.shuffle(found)
        return [item[0] for item in found if item[0]], [item[1] for item in found if item[1]]

    def pointer(self, asker: Asker, address: IPv4Address | IPv6Address) -> str | None:
        """Return the name of an address on the asker's networks, "" if it is ours but unknown to it, None if it is not ours."""
        snapshot = self._current()
        for network in asker.networks:
            if name := snapshot.pointers.get((network, str(address))):
                return name
        ours = any(address in subnet for _, subnet in snapshot.subnets if subnet.version == address.version)
        return "" if ours else None

    def _current(self) -> _Snapshot:
        version = self._connection.execute("PRAGMA data_version").fetchone()[0]
        if version != self._version:
            names_version = self._connection.execute("SELECT value FROM names_version").fetchone()[0]
            if names_version != self._names_version:
                self._snapshot, self._names_version = self._read()
            self._version = version
        return self._snapshot

    def _read(self) -> tuple[_Snapshot, int]:
        self._connection.execute("BEGIN")
        try:
            version = int(self._connection.execute("SELECT value FROM names_version").fetchone()[0])
            networks = [
                json.loads(row["record"]) for row in self._connection.execute("SELECT record FROM networks")
            ]
            rows = self._connection.execute("SELECT * FROM endpoints ORDER BY rowid").fetchall()
        finally:
            self._connection.execute("ROLLBACK")
        snapshot = _Snapshot(network_names={network["id"]: network["name"] for network in networks})
        for network in networks:
            snapshot.names[network["id"]] = defaultdict(list)
            for subnet in network["subnets"]:
                snapshot.subnets.append((network["id"], ip_network(subnet["subnet"])))
                snapshot.gateways.append(subnet["gateway"])
        internal = {network["id"] for network in networks if network["internal"]}
        for row in rows:
            if row["active"]:
                self._add_names(snapshot, row)
        _add_askers(snapshot, rows, internal)
        return snapshot, version

    def _add_names(self, snapshot: _Snapshot, row: sqlite3.Row) -> None:
        network = row["network_id"]
        if snapshot.network_names.get(network) in (None, DEFAULT_NETWORK):
            return
        own = [row["name"], row["container_id"][:12], row["hostname"], *json.loads(row["aliases"])]
        for name in dict.fromkeys(name.lower().rstrip(".") for name in own if name):
            snapshot.names[network][name].append((row["ipv4"], row["ipv6"]))
        full = f"{row['name'] or row['container_id'][:12]}.{snapshot.network_names[network]}"
        for address in (row["ipv4"], row["ipv6"]):
            if address:
                snapshot.pointers[network, address] = full


def _add_askers(snapshot: _Snapshot, rows: list[sqlite3.Row], internal: set[str]) -> None:
    networks: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        networks[row["container_id"]].append(row["network_id"])
    for row in rows:
        own = networks[row["container_id"]]
        asker = Asker(
            row["container_id"],
            tuple(own),
            any(network not in internal for network in own),
            tuple(json.loads(row["dns"])),
        )
        for address in (row["ipv4"], row["ipv6"]):
            if address:
                snapshot.askers[str(ip_address(address))] = asker
