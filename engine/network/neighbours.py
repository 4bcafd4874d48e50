"""Getting on with other firewalls of the machine: Docker's, ufw's, firewalld's, an administrator's.

What one table accepts another may still drop. So where the chains that all tools share (`FORWARD`, `INPUT` of iptables)
drop by default, two or three rules of ours go in, each with a comment that names the engine; Docker has a chain for the
purpose, `DOCKER-USER`. firewalld is told that our bridges are trusted, by its own command. Nothing of others is changed
or removed. Where a table of another's own drops forwarded packets, nobody but its owner can help: `obstacles` says so.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import which

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

    def obstacles(self, own_table: str) -> list[Obstacle]:
        """Return the chains of other tables that drop forwarded packets by default and that we cannot open."""
        found = []
        for chain in _base_chains():
            mine = chain["family"] == "inet" and chain["table"] == own_table
            shared = chain["family"] in ("ip", "ip6") and chain["table"] in _SHARED
            if (
                mine
                or shared
                or chain.get("policy") != "drop"
                or chain.get("hook") not in ("forward", "input")
            ):
                continue
            name = f"{chain['family']} {chain['table']} {chain['name']}"
            found.append(
                Obstacle(
                    name, f'add to it: iifname "{self._pattern}*" accept, oifname "{self._pattern}*" accept'
                )
            )
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
    listed = run([tool, "-w", "5", "-S", chain], check=False).stdout.decode(errors="replace")
    return listed.startswith(f"-P {chain} DROP")


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


def _base_chains() -> list[dict[str, str]]:
    try:
        listed = run(["nft", "-j", "list", "chains"])
        items = json.loads(listed.stdout)["nftables"]
    except (CommandFailed, Unavailable, ValueError, KeyError) as error:
        logger.warning("the rules of other firewalls cannot be read: %s", error)
        return []
    return [item["chain"] for item in items if "hook" in item.get("chain", {})]
