"""Getting on with other firewalls of the machine: Docker's, ufw's, firewalld's, an administrator's.

What one table accepts another may still drop. So where the chains that all tools share (`FORWARD`, `INPUT` of iptables)
drop by default (by policy, or by a last rule for everything), two or three rules of ours go in, each with a comment that
names the engine; Docker has a chain for the purpose, `DOCKER-USER`. firewalld is told that our bridges are trusted, by
its own command. Nothing of others is changed or removed. Where a table of another's own drops forwarded packets, nobody
but its owner can help: `obstacles` says so, and what to do.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import Any

from engine.errors import CommandFailed, Unavailable
from engine.linux.nft import Table
from engine.linux.process import run

logger = logging.getLogger(__name__)

_FIREWALLD = "firewalld"
_SHARED = ("filter",)
_TOOLS = (
    ("iptables", "iptables-legacy", "ip_tables_names"),
    ("ip6tables", "ip6tables-legacy", "ip6_tables_names"),
)
_OWN_LEGACY = Path("/proc/net")


@dataclass(frozen=True)
class Obstacle:
    """A chain of somebody else's that drops what our table lets through, and what its owner can do about it."""

    chain: str
    hint: str


class Neighbours:
    """What this engine asks of other firewalls. `comment` marks its rules, `pattern` matches its bridges."""

    def __init__(self, comment: str, pattern: str) -> None:
        self._comment = comment
        self._pattern = pattern

    def adopt(self, bridges: Sequence[str]) -> list[str]:
        """Have our bridges let through where a shared chain drops by default; return what was added. Idempotent."""
        added = []
        for tool in self._dropping_tools():
            for chain, rule in self._rules(tool, bridges):
                if run([tool, "-w", "5", "-C", chain, *rule], check=False).returncode != 0:
                    run([tool, "-w", "5", "-I", chain, *rule])
                    added.append(f"{tool} {chain} {' '.join(rule)}")
        added += self._trust(bridges)
        for text in added:
            logger.warning("another firewall drops by default; added: %s", text)
        return added

    def forget(self) -> None:
        """Take our rules out of the shared chains again."""
        for tool in [name for names in _TOOLS for name in names[:2]]:
            if which(tool) is None or ("legacy" in tool and not _legacy_in_use(tool)):
                continue
            listed = run([tool, "-w", "5", "-S"], check=False).stdout.decode(errors="replace")
            for line in listed.splitlines():
                if line.startswith("-A ") and f"--comment {self._comment}" in line.replace('"', ""):
                    run([tool, "-w", "5", "-D", *line.replace('"', "").split()[1:]], check=False)

    def obstacles(self, own_table: str, bridges: Sequence[str] = ()) -> list[Obstacle]:
        """Return the chains of other tables that drop what comes from or to our bridges and that we could not open."""
        items = _ruleset()
        found = []
        for chain in _closing_chains(items):
            where = chain["family"], chain["table"]
            if where == ("inet", own_table) or (
                chain["table"] in _SHARED and which(_tool_of(chain["family"]))
            ):
                continue
            hint = f'add to it: iifname "{self._pattern}*" accept, oifname "{self._pattern}*" accept'
            if where == ("inet", _FIREWALLD):
                closed = [bridge for bridge in bridges if bridge not in _trusted_by_firewalld(items)]
                if not closed:
                    continue
                hint = f"tell firewalld: firewall-cmd --zone=trusted --change-interface={closed[0]}"
            found.append(Obstacle(f"{chain['family']} {chain['table']} {chain['name']}", hint))
        return found

    def _rules(self, tool: str, bridges: Sequence[str]) -> list[tuple[str, list[str]]]:
        mark = ["-m", "comment", "--comment", self._comment, "-j", "ACCEPT"]
        patterns = [f"{self._pattern}+", *(name for name in bridges if not name.startswith(self._pattern))]
        forward = (
            "DOCKER-USER"
            if run([tool, "-w", "5", "-S", "DOCKER-USER"], check=False).returncode == 0
            else "FORWARD"
        )
        rules = []
        for pattern in patterns:
            if _drops(tool, "FORWARD"):
                rules += [(forward, ["-i", pattern, *mark]), (forward, ["-o", pattern, *mark])]
            if _drops(tool, "INPUT"):
                rules.append(("INPUT", ["-i", pattern, *mark]))
        return rules

    def _dropping_tools(self) -> list[str]:
        tools = []
        for tool, legacy, _ in _TOOLS:
            if (
                _has_shared_chains(tool)
                and which(tool)
                and (_drops(tool, "FORWARD") or _drops(tool, "INPUT"))
            ):
                tools.append(tool)
            if _legacy_in_use(legacy) and (_drops(legacy, "FORWARD") or _drops(legacy, "INPUT")):
                tools.append(legacy)
        return tools

    def _trust(self, bridges: Sequence[str]) -> list[str]:
        if which("firewall-cmd") is None or not Table(_FIREWALLD).exists():
            return []
        added = []
        for bridge in bridges:
            try:
                if (
                    run(
                        ["firewall-cmd", "--zone=trusted", f"--query-interface={bridge}"], check=False
                    ).returncode
                    != 0
                ):
                    run(["firewall-cmd", "--zone=trusted", f"--change-interface={bridge}"])
                    added.append(f"firewalld zone trusted, interface {bridge}")
            except (CommandFailed, Unavailable) as error:
                logger.warning("firewalld could not be told to trust %s: %s", bridge, error)
        return added


def _drops(tool: str, chain: str) -> bool:
    """Tell whether a shared chain lets nothing through by default: by its policy, or by a last rule for all packets."""
    listed = run([tool, "-w", "5", "-S", chain], check=False).stdout.decode(errors="replace").splitlines()
    if not listed:
        return False
    last = listed[-1].split()
    return listed[0].startswith(f"-P {chain} DROP") or (
        last[:3] == ["-A", chain, "-j"] and last[3] in ("DROP", "REJECT")
    )


def _has_shared_chains(tool: str) -> bool:
    """Tell whether the table that iptables keeps in nftables is there, without making it by asking for it."""
    family = "ip6" if tool.startswith("ip6") else "ip"
    return any(
        chain["family"] == family and chain["table"] == "filter" and chain["name"] in ("FORWARD", "INPUT")
        for chain in _base_chains()
    )


def _legacy_in_use(tool: str) -> bool:
    if which(tool) is None:
        return False
    names = _OWN_LEGACY / ("ip6_tables_names" if tool.startswith("ip6") else "ip_tables_names")
    try:
        return "filter" in names.read_text().split()
    except OSError:
        return False


def _tool_of(family: str) -> str:
    return {"ip": "iptables", "ip6": "ip6tables"}.get(family, "")


def _base_chains() -> list[dict[str, Any]]:
    return [item["chain"] for item in _listed("chains") if "hook" in item.get("chain", {})]


def _closing_chains(items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the base chains for forwarded packets and for this machine that end in a drop: by policy, or by a last rule."""
    last: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for item in items:
        if rule := item.get("rule"):
            last[rule["family"], rule["table"], rule["chain"]] = rule["expr"]
    found = []
    for chain in (item["chain"] for item in items if "hook" in item.get("chain", {})):
        end = last.get((chain["family"], chain["table"], chain["name"]), [])
        closes = [part for part in end if not set(part) <= {"counter", "log"}]
        dropped = len(closes) == 1 and set(closes[0]) <= {"drop", "reject"}
        if chain["hook"] in ("forward", "input") and (chain.get("policy") == "drop" or dropped):
            found.append(chain)
    return found


def _trusted_by_firewalld(items: Sequence[dict[str, Any]]) -> set[str]:
    """Return the interfaces that firewalld's own rules send to its zone for trusted ones."""
    found = set()
    for rule in (item["rule"] for item in items if "rule" in item):
        if (rule["family"], rule["table"]) != ("inet", _FIREWALLD):
            continue
        targets = [part[verb]["target"] for part in rule["expr"] for verb in ("goto", "jump") if verb in part]
        if any(target.endswith("_trusted") for target in targets):
            found |= {str(part["match"]["right"]) for part in rule["expr"] if "match" in part}
    return found


def _ruleset() -> list[dict[str, Any]]:
    return _listed("ruleset")


def _listed(what: str) -> list[dict[str, Any]]:
    """Return what nft(8) lists, without the elements of sets."""
    try:
        items: list[dict[str, Any]] = json.loads(run(["nft", "-j", "-t", "list", what]).stdout)["nftables"]
    except (CommandFailed, Unavailable, ValueError, KeyError) as error:
        logger.warning("the rules of other firewalls cannot be read: %s", error)
        return []
    return items
