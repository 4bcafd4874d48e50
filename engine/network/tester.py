"""Trying a connection from inside a container: does the name resolve, does the port answer, and if not, why.

The container needs no tools for it: a thread of ours enters its network namespace and does what its programs would do.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from ipaddress import ip_address, ip_network
from pathlib import Path

from engine.errors import BadSpec
from engine.linux.netlink import in_netns
from engine.network import dnsmessage as message
from engine.network.dnsprobe import ask
from engine.network.model import Network

TIMEOUT_S = 3.0


class Outcome(StrEnum):
    """What came of it; everything but `ok` is a reason of failure."""

    OK = "ok"
    NAME_UNKNOWN = "name_unknown"
    RESOLVER_SILENT = "resolver_silent"
    REFUSED = "refused"
    FILTERED = "filtered"
    UNREACHABLE = "unreachable"
    OTHER_NETWORK = "other_network"
    NO_ANSWER = "no_answer"  # udp only: it may have arrived


@dataclass(frozen=True)
class Attempt:
    """One address tried. `duration_s` is the time to the answer or to giving up."""

    address: str
    outcome: Outcome
    duration_s: float


@dataclass(frozen=True)
class Trial:
    """The whole try. `detail` is one sentence for people, `hint` what they can do; `resolve_s` is 0 for an address."""

    target: str
    port: int
    protocol: str
    outcome: Outcome
    detail: str
    hint: str = ""
    addresses: list[str] = field(default_factory=list)
    resolve_s: float = 0.0
    attempts: list[Attempt] = field(default_factory=list)


def try_connection(
    netns: Path,
    target: str,
    port: int,
    *,
    own: list[Network],
    everything: list[Network],
    resolvers: list[str],
    protocol: str = "tcp",
    timeout_s: float = TIMEOUT_S,
) -> Trial:
    """Resolve `target` and connect to `port` (0: resolve only) from the namespace `netns`.

    `own` are the networks of the container that lives there, `everything` those of the engine, both with members: they
    tell why an address or name cannot be had. `resolvers` are those of its `/etc/resolv.conf`.
    """
    if protocol not in ("tcp", "udp") or not 0 <= port <= 65535 or not target or len(target) > 253:
        raise BadSpec(f"not a connection that can be tried: {target[:80]!r} port {port}/{protocol[:10]}")
    started = time.monotonic()
    addresses, failure = _resolve(netns, target, resolvers, timeout_s)
    resolve_s = 0.0 if _is_address(target) else time.monotonic() - started
    trial = Trial(
        target, port, protocol, Outcome.OK, f"{target} is {', '.join(addresses)}", "", addresses, resolve_s
    )
    if failure is not None:
        return _explained_name(trial, failure, own, everything, resolvers)
    if not port:
        return trial
    attempts = []
    for address in addresses:
        attempts.append(in_netns(netns, partial(_connect, address, port, protocol, timeout_s)))
        if attempts[-1].outcome is Outcome.OK:
            break
    return _explained_attempts(trial, attempts, own, everything)


def _resolve(
    netns: Path, target: str, resolvers: list[str], timeout_s: float
) -> tuple[list[str], Outcome | None]:
    if _is_address(target):
        return [target], None
    silent = True
    for resolver in resolvers:
        try:
            found: list[str] = []
            for kind in (message.A, message.AAAA):
                answer = in_netns(netns, partial(ask, resolver, target, kind, timeout_s=timeout_s))
                found += answer[1]
        except OSError:
            continue
        silent = False
        if found:
            return found, None
    return [], Outcome.RESOLVER_SILENT if silent else Outcome.NAME_UNKNOWN


def _connect(address: str, port: int, protocol: str, timeout_s: float) -> Attempt:
    started = time.monotonic()
    outcome = _outcome(address, port, protocol, timeout_s)
    return Attempt(address, outcome, time.monotonic() - started)


def _outcome(address: str, port: int, protocol: str, timeout_s: float) -> Outcome:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM) as sock:
        sock.settimeout(timeout_s)
        try:
            sock.connect((address, port))
            if protocol == "udp":
                sock.send(os.urandom(1))
                sock.recv(65535)
        except TimeoutError:
            return Outcome.NO_ANSWER if protocol == "udp" else Outcome.FILTERED
        except ConnectionRefusedError:
            return Outcome.REFUSED
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM):
                return Outcome.FILTERED
            return Outcome.UNREACHABLE
    return Outcome.OK


def _explained_name(
    trial: Trial, failure: Outcome, own: list[Network], everything: list[Network], resolvers: list[str]
) -> Trial:
    if failure is Outcome.RESOLVER_SILENT:
        asked = ", ".join(resolvers) or "nobody"
        return _with(
            trial, failure, f"no name server answers (asked: {asked})", "the agent of the node may not run"
        )
    mine = {network.id for network in own}
    for network in everything:
        for member in network.members:
            if (
                trial.target.lower() in {name.lower() for name in (member.name, *member.aliases)}
                and network.id not in mine
            ):
                return _with(
                    trial,
                    Outcome.OTHER_NETWORK,
                    f"{trial.target} is on network {network.name}, this container is not",
                    f"connect the container to {network.name}",
                )
    hint = (
        ""
        if any(network.has_dns for network in own)
        else "the default network has no names: use a network of your own"
    )
    return _with(trial, failure, f"the name {trial.target} is unknown", hint)


def _explained_attempts(
    trial: Trial, attempts: list[Attempt], own: list[Network], everything: list[Network]
) -> Trial:
    trial = _with(trial, attempts[-1].outcome, "", "", attempts)
    where = f"{attempts[-1].address} port {trial.port}/{trial.protocol}"
    mine = {network.id for network in own}
    match trial.outcome:
        case Outcome.OK:
            return _with(trial, Outcome.OK, f"connected to {where}")
        case Outcome.REFUSED:
            return _with(
                trial, Outcome.REFUSED, f"{where} refuses: nothing listens there",
                "look at the log of the program that should, and whether it listens on all addresses",
            )  # fmt: skip
        case Outcome.NO_ANSWER:
            return _with(
                trial,
                trial.outcome,
                f"{where} did not answer",
                "a server without an answer to this looks the same",
            )
    for network in everything:
        if network.id not in mine and any(
            _within(attempts[-1].address, subnet.subnet) for subnet in network.subnets
        ):
            return _with(
                trial, Outcome.OTHER_NETWORK, f"{where} is on network {network.name}, this container is not",
                f"connect the container to {network.name}, or publish the port",
            )  # fmt: skip
    if own and all(network.internal for network in own):
        return _with(
            trial, trial.outcome, f"{where} is outside, and every network of this container is internal"
        )
    if trial.outcome is Outcome.UNREACHABLE:
        return _with(trial, trial.outcome, f"there is no way to {where}")
    return _with(
        trial,
        trial.outcome,
        f"no answer from {where}",
        "a firewall drops the packets, or the machine is down",
    )


def _with(
    trial: Trial, outcome: Outcome, detail: str, hint: str = "", attempts: list[Attempt] | None = None
) -> Trial:
    return Trial(
        trial.target, trial.port, trial.protocol, outcome, detail, hint, trial.addresses, trial.resolve_s,
        trial.attempts if attempts is None else attempts,
    )  # fmt: skip


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _within(address: str, subnet: str) -> bool:
    network = ip_network(subnet)
    parsed = ip_address(address)
    return parsed.version == network.version and parsed in network
