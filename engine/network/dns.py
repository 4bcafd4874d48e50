"""The DNS server of the engine's networks: on every network's gateway, port 53, UDP and TCP.

It answers for containers only, each from its own point of view (`engine.network.names`), and passes on what is not
ours to the host's resolvers, unless the asker is on internal networks only: then nothing leaves (NW-06). A single label
that is no container is answered at once; the world has no such names.

    server = DnsServer(config, db)      # in the agent
    await server.start(); ...; server.refresh() when networks came or went; await server.stop()

Names that came or went need no refresh; a network that came is also noticed within `POLL_S`.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from engine.config import EngineConfig
from engine.db import Database
from engine.network import dnsmessage as message
from engine.network.dnsmessage import BadMessage, Query
from engine.network.names import Asker, Directory
from engine.network.reservations import who_uses

logger = logging.getLogger(__name__)

PORT = 53
POLL_S = 0.2
TTL_S = 2
UPSTREAM_TIMEOUT_S = 2.0
TCP_TIMEOUT_S = 10.0
MAX_FORWARDS = 500
MAX_STREAMS = 200
RESOLV_CONF = Path("/etc/resolv.conf")
_RESOLVED_CONF = Path("/run/systemd/resolve/resolv.conf")


class DnsServer:
    """Answers the questions of one engine's containers. For one event loop."""

    def __init__(self, config: EngineConfig, db: Database) -> None:
        del db  # the schema is there; the directory reads through a connection of its own
        self._config = config
        self._directory = Directory(config.database)
        self._listeners: dict[str, _Listener] = {}
        self._poller: asyncio.Task[None] | None = None
        self._forwards: set[asyncio.Task[None]] = set()
        self._streams = 0
        self.problems: dict[str, str] = {}  # gateway → why nothing answers there

    async def start(self) -> None:
        """Begin to answer on every gateway there is."""
        await self._listen()
        self._poller = asyncio.create_task(self._poll(), name="dns")

    async def stop(self) -> None:
        """Stop answering and close everything."""
        if self._poller is not None:
            self._poller.cancel()
            with suppress(asyncio.CancelledError):
                await self._poller
        for task in list(self._forwards):
            task.cancel()
        await asyncio.gather(*self._forwards, return_exceptions=True)
        for listener in self._listeners.values():
            await listener.close()
        self._listeners.clear()
        self._directory.close()

    @property
    def listening(self) -> list[str]:
        """The gateways on which questions are answered now."""
        return [address for address, listener in self._listeners.items() if listener.is_open]

    def refresh(self) -> None:
        """Look for networks that came or went now."""
        task = asyncio.get_running_loop().create_task(self._listen())
        self._forwards.add(task)
        task.add_done_callback(self._forwards.discard)

    def answer(self, data: bytes, client: str, *, limit: int = 0) -> bytes | Asker | None:
        """Return the answer to a message, or the asker whose question is to be passed on, or None: stay silent.

        `limit` is the largest answer, 0 means what the question says.
        """
        try:
            query = message.parse_query(data)
        except BadMessage as error:
            return error.reply or None
        asker = self._directory.asker(client)
        if asker is None:
            return message.failure(query, message.REFUSED)
        if (address := message.pointer_address(query.name)) is not None:
            return self._pointer(query, asker, address)
        found = self._directory.lookup(asker, query.name)
        if found is not None:
            return _addresses(query, found, limit or query.size)
        if not asker.outside or "." not in query.name:
            return message.failure(query, message.NXDOMAIN)
        return asker

    def _pointer(
        self, query: Query, asker: Asker, address: Any
    ) -> bytes | Asker:  # IPv4Address | IPv6Address
        name = self._directory.pointer(asker, address)
        if name:
            return message.answer_pointer(query, [name], ttl=TTL_S)
        if name is None and asker.outside:
            return asker
        return message.failure(query, message.NXDOMAIN)

    async def forward(self, data: bytes, asker: Asker, *, stream: bool) -> bytes:
        """Pass a question on to the resolvers, one after another; the answer is theirs, or "server failure"."""
        for resolver in asker.resolvers or upstreams(self._config):
            try:
                if stream:
                    return await asyncio.wait_for(_ask_stream(data, resolver), UPSTREAM_TIMEOUT_S)
                return await asyncio.wait_for(_ask_datagram(data, resolver), UPSTREAM_TIMEOUT_S)
            except (TimeoutError, OSError):
                continue
        return message.failure(message.parse_query(data), message.SERVFAIL)

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(POLL_S)
            try:
                await self._listen()
            except Exception:
                logger.exception("looking for networks to answer on")

    async def _listen(self) -> None:
        wanted = set(self._directory.gateways)
        for address in set(self._listeners) - wanted:
            await self._listeners.pop(address).close()
            self.problems.pop(address, None)
        for address in wanted - set(self._listeners):
            listener = _Listener(self, address)
            self._listeners[address] = listener
            try:
                await listener.open()
            except OSError as error:
                self._listeners.pop(address, None)
                await listener.close()
                self._note_problem(address, error)
            else:
                self.problems.pop(address, None)

    def _note_problem(self, address: str, error: OSError) -> None:
        """Remember why nothing answers on a gateway; say it once (a bridge that is not there yet says nothing)."""
        if error.errno == errno.EADDRNOTAVAIL:
            return
        user = who_uses("udp", address, PORT) if error.errno == errno.EADDRINUSE else ""
        text = f"in use by {user}" if user else str(error.strerror or error)
        if self.problems.get(address) != text:
            logger.error("names cannot be answered on %s port %s: %s", address, PORT, text)
        self.problems[address] = text

    def handle_datagram(self, data: bytes, client: Any, transport: asyncio.DatagramTransport) -> None:
        """Answer one UDP message, at once or after asking upstream."""
        answer = self.answer(data, client[0])
        if isinstance(answer, Asker):
            if len(self._forwards) >= MAX_FORWARDS:
                return  # the asker will ask again
            task = asyncio.get_running_loop().create_task(
                self._forward_datagram(data, answer, client, transport)
            )
            self._forwards.add(task)
            task.add_done_callback(self._forwards.discard)
        elif answer is not None:
            transport.sendto(answer, client)

    async def _forward_datagram(
        self, data: bytes, asker: Asker, client: Any, transport: asyncio.DatagramTransport
    ) -> None:
        answer = await self.forward(data, asker, stream=False)
        if not transport.is_closing():
            transport.sendto(answer, client)

    async def handle_stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the messages of one TCP connection."""
        if self._streams >= MAX_STREAMS:
            writer.close()
            return
        self._streams += 1
        try:
            client = writer.get_extra_info("peername")[0]
            while True:
                size = int.from_bytes(await asyncio.wait_for(reader.readexactly(2), TCP_TIMEOUT_S), "big")
                data = await asyncio.wait_for(reader.readexactly(size), TCP_TIMEOUT_S)
                answer = self.answer(data, client, limit=65535)
                if isinstance(answer, Asker):
                    answer = await self.forward(data, answer, stream=True)
                if answer is None:
                    return
                writer.write(len(answer).to_bytes(2, "big") + answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, TimeoutError, ConnectionError):
            return
        finally:
            self._streams -= 1
            writer.close()


class _Listener:
    """The two sockets on one gateway."""

    def __init__(self, server: DnsServer, address: str) -> None:
        self._server = server
        self._address = address
        self._datagrams: asyncio.DatagramTransport | None = None
        self._streams: asyncio.Server | None = None

    @property
    def is_open(self) -> bool:
        return self._streams is not None

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        self._datagrams, _ = await loop.create_datagram_endpoint(
            lambda: _Datagrams(self._server), local_addr=(self._address, PORT)
        )
        self._streams = await asyncio.start_server(
            self._server.handle_stream, self._address, PORT, limit=70_000, reuse_address=True
        )

    async def close(self) -> None:
        if self._datagrams is not None:
            self._datagrams.close()
        if self._streams is not None:
            self._streams.close()
        await asyncio.sleep(0)


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def datagram_received(self, data: bytes, addr: Any) -> None:  # (address, port, ...)
        assert self._transport is not None
        self._server.handle_datagram(data, addr, self._transport)


def upstreams(config: EngineConfig) -> list[str]:
    """Return the resolvers that the host itself asks, or those of the configuration."""
    return list(config.dns_upstreams) or host_resolvers()


def host_resolvers(path: Path = RESOLV_CONF) -> list[str]:
    """Return the name servers of a resolv.conf; those behind systemd-resolved's stub rather than the stub."""
    servers = _values(path, "nameserver")
    if servers == ["127.0.0.53"] and _RESOLVED_CONF.exists():
        servers = _values(_RESOLVED_CONF, "nameserver") or servers
    return [server for server in servers if "%" not in server]


def host_search(path: Path = RESOLV_CONF) -> list[str]:
    """Return the search domains of a resolv.conf; its last line of that kind counts."""
    return _values(path, "search", last_line=True)


def _values(path: Path, key: str, *, last_line: bool = False) -> list[str]:
    found: list[str] = []
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return found
    for line in lines:
        words = line.split()
        if words and words[0] == key:
            found = words[1:] if last_line else [*found, *words[1:2]]
    return found


def _addresses(query: Query, found: tuple[Sequence[str], Sequence[str]], limit: int) -> bytes:
    ipv4, ipv6 = found
    if query.type == message.A:
        return message.answer(query, ipv4, ttl=TTL_S, limit=limit)
    if query.type == message.AAAA:
        return message.answer(query, ipv6, ttl=TTL_S, limit=limit)
    if query.type == message.ANY:
        return message.answer(query, [*ipv4, *ipv6], ttl=TTL_S, limit=limit)
    return message.failure(query, message.NOERROR)


async def _ask_datagram(data: bytes, resolver: str) -> bytes:
    """Ask by UDP from a port and with an id of its own; what does not answer exactly this is not listened to."""
    loop = asyncio.get_running_loop()
    identity = os.urandom(2)
    with socket.socket(socket.AF_INET6 if ":" in resolver else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, (resolver, PORT))
        await loop.sock_sendall(sock, identity + data[2:])
        while True:
            answer = await loop.sock_recv(sock, 65535)
            if len(answer) >= 12 and answer[:2] == identity and answer[2] & 0x80:
                return data[:2] + answer[2:]


async def _ask_stream(data: bytes, resolver: str) -> bytes:
    reader, writer = await asyncio.open_connection(resolver, PORT)
    try:
        writer.write(len(data).to_bytes(2, "big") + data)
        await writer.drain()
        size = int.from_bytes(await reader.readexactly(2), "big")
        return await reader.readexactly(size)
    except asyncio.IncompleteReadError as error:
        raise ConnectionError("the resolver hung up") from error
    finally:
        writer.close()
