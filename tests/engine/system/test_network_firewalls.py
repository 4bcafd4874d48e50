"""Beside other firewalls as they really are: Docker's rules, those of Red Hat's images, firewalld itself, an administrator's."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import which

import pytest

from engine.config import EngineConfig
from engine.containers.model import PortSpec
from engine.db import Database
from engine.linux.process import CLEAN_ENV
from engine.network import SCHEMA, NetworkManager, NetworkSpec, neighbours
from tests.support.netlab import MACHINE, NEIGHBOUR, FakeContainer, Lab, ask, container, lab

pytestmark = pytest.mark.root

# What dockerd 28 leaves in iptables (nf_tables) with one bridge and one container that publishes 8081.
DOCKER = """
*raw
:PREROUTING ACCEPT [0:0]
-A PREROUTING -d 172.17.0.2/32 ! -i docker0 -j DROP
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-BRIDGE - [0:0]
:DOCKER-CT - [0:0]
:DOCKER-FORWARD - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-FORWARD
-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
-A DOCKER ! -i docker0 -o docker0 -j DROP
-A DOCKER-BRIDGE -o docker0 -j DOCKER
-A DOCKER-CT -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-FORWARD -j DOCKER-CT
-A DOCKER-FORWARD -j DOCKER-ISOLATION-STAGE-1
-A DOCKER-FORWARD -j DOCKER-BRIDGE
-A DOCKER-FORWARD -i docker0 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
-A DOCKER-USER -j RETURN
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8081 -j DNAT --to-destination 172.17.0.2:80
COMMIT
"""

# The rules of Red Hat's and of several clouds' images: no policy, a last rule that rejects.
LAST_RULE_REJECTS = """
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -i lo -j ACCEPT
-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT
-A INPUT -j REJECT --reject-with icmp-host-prohibited
-A FORWARD -j REJECT --reject-with icmp-host-prohibited
COMMIT
"""

BUS = """<busconfig><type>system</type><listen>unix:path={socket}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_type="method_call"/><allow send_destination="*"/>
<allow receive_sender="*"/></policy></busconfig>"""


@pytest.fixture
def machine(tmp_path: Path, engine_config: EngineConfig) -> Iterator[Lab]:
    with lab(tmp_path) as found:
        yield found


@pytest.fixture
def manager(engine_config: EngineConfig, machine: Lab) -> NetworkManager:
    found = NetworkManager(engine_config, Database(engine_config.database, [SCHEMA]))
    found.restore()
    return found


@pytest.fixture
def web(manager: NetworkManager, machine: Lab, tmp_path: Path) -> Iterator[FakeContainer]:
    """A container that answers on 80 and publishes it as 8080; the neighbour answers on 80."""
    made = container(manager, tmp_path, 1, ports=[PortSpec(80, host_ip="0.0.0.0", host_port=8080)])
    machine.serve(made.netns, 80)
    machine.serve(machine.neighbour, 80)
    yield made
    manager.release(made.id)
    manager.remove_netns(made.netns)


def sh(*words: str, given: str = "") -> str:
    return subprocess.run(words, input=given, check=True, capture_output=True, text=True).stdout


def works(machine: Lab, web: FakeContainer) -> bool:
    """Tell whether the container reaches the world, and the world its published port."""
    outward = web.ask(NEIGHBOUR, 80, timeout_s=1) == f"hello {MACHINE}"
    return outward and machine.on_neighbour(lambda: ask(MACHINE, 8080)) == f"hello {NEIGHBOUR}"


def others(manager: NetworkManager) -> str:
    """Return every rule of this machine that is not ours, without the counters."""
    kept = [line for line in sh("iptables-save").splitlines() if manager.table_name not in line]
    return "\n".join(re.sub(r" \[\d+:\d+\]$", "", line) for line in kept if not line.startswith("#"))


@pytest.mark.parametrize("rules", [DOCKER, LAST_RULE_REJECTS], ids=["docker", "last rule rejects"])
def test_rules_of_others_are_opened_for_us_and_left_as_they_are(
    manager: NetworkManager, machine: Lab, web: FakeContainer, rules: str
) -> None:
    sh("iptables-restore", given=rules)
    before = others(manager)
    assert not works(machine, web)
    manager.restore()
    assert works(machine, web)
    assert others(manager) == before
    assert manager.check([web.id]) == []
    manager.dismantle()
    assert others(manager) == before
    assert manager.table_name not in sh("iptables-save")


def test_docker_that_starts_after_us_is_noticed(
    manager: NetworkManager, machine: Lab, web: FakeContainer
) -> None:
    """Docker puts its jumps at the top of the shared chain whenever it starts; ours are looked for again."""
    sh("iptables-restore", given=DOCKER)
    manager.restore()
    sh("iptables-restore", given=DOCKER)  # it restarts: its chains are made anew
    assert not works(machine, web)
    manager.restore()
    assert works(machine, web)


@pytest.mark.parametrize("last", ["drop", "counter reject with icmpx admin-prohibited"])
def test_chain_of_an_administrator_that_ends_in_a_drop_is_named(manager: NetworkManager, last: str) -> None:
    """Its policy says accept; only its owner can open it."""
    sh(
        "nft",
        "-f",
        "-",
        given=f"""
        table inet site {{
            chain through {{
                type filter hook forward priority 0; policy accept;
                ct state established,related accept
                {last}
            }}
            chain out {{ type filter hook output priority 0; policy drop; accept; }}
        }}""",
    )
    found = [text for text in manager.check([]) if "another firewall" in text]
    assert len(found) == 1
    assert "inet site through" in found[0]
    assert 'iifname "wb' in found[0]


def test_shared_chain_is_named_where_its_tool_is_missing(
    manager: NetworkManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    sh("iptables", "-P", "FORWARD", "DROP")
    monkeypatch.setattr(neighbours, "which", lambda name: None)
    manager.restore()
    assert any("chain ip filter FORWARD" in text for text in manager.check([]))


@pytest.fixture
def firewalld(
    machine: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[subprocess.Popen[bytes]]:
    """The real firewalld, on a message bus of its own, in the machine of the test."""
    if which("firewalld") is None or which("dbus-daemon") is None:
        pytest.skip("firewalld is not installed")
    bus, settings = tmp_path / "bus", tmp_path / "settings"
    settings.mkdir()
    (tmp_path / "bus.conf").write_text(BUS.format(socket=bus))
    address = {"DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={bus}"}
    monkeypatch.setitem(CLEAN_ENV, *next(iter(address.items())))
    daemon = subprocess.Popen(
        ["dbus-daemon", f"--config-file={tmp_path / 'bus.conf'}", "--nofork", "--nopidfile"],
        stderr=subprocess.DEVNULL,
    )
    argv = [
        "firewalld",
        "--nofork",
        "--nopid",
        "--system-config",
        str(settings),
        "--log-file",
        str(tmp_path / "log"),
    ]
    process: subprocess.Popen[bytes] | None = None
    try:
        wait_until(bus.exists)
        process = subprocess.Popen(
            argv, env={**CLEAN_ENV}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(lambda: firewall_cmd("--state") == "running")
        yield process
    finally:
        for running in (process, daemon):
            if running is not None:
                running.terminate()
                running.wait(20)


def firewall_cmd(*words: str) -> str:
    done = subprocess.run(
        ["firewall-cmd", *words], env={**CLEAN_ENV}, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def wait_until(true: Callable[[], bool], timeout_s: float = 40) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.1)


def test_real_firewalld_is_told_to_trust_our_bridges(
    manager: NetworkManager, machine: Lab, web: FakeContainer, firewalld: subprocess.Popen[bytes]
) -> None:
    bridge = manager.get("bridge").bridge
    before = firewall_cmd("--zone=public", "--list-all")
    assert not works(machine, web)
    assert any("firewall-cmd --zone=trusted" in text for text in manager.check([web.id]))
    manager.restore()
    assert works(machine, web)
    assert firewall_cmd("--zone=trusted", "--query-interface", bridge) == "yes"
    assert firewall_cmd("--zone=public", "--list-all") == before
    assert manager.check([web.id]) == []
    firewall_cmd("--reload")
    manager.restore()
    assert works(machine, web)
    second = manager.create(NetworkSpec("second"))
    manager.restore()
    assert firewall_cmd("--zone=trusted", "--query-interface", second.bridge) == "yes"
    assert machine.neighbour_hears_nothing(web.address, 80)  # trusted, and still closed by our own table


def test_firewalld_that_cannot_be_told_is_named(
    manager: NetworkManager,
    machine: Lab,
    web: FakeContainer,
    firewalld: subprocess.Popen[bytes],
    tmp_path: Path,
) -> None:
    """Its rules stay when it is killed; nobody answers on the bus then."""
    firewalld.kill()
    firewalld.wait(10)
    manager.restore()
    assert not works(machine, web)
    said = [text for text in manager.check([web.id]) if "another firewall" in text]
    assert any("inet firewalld filter_FORWARD" in text for text in said)
    assert all("firewall-cmd --zone=trusted --change-interface=wb" in text for text in said)
