"""What pages say of a container, worked out from its record: ports as links, limits, who it talks to."""

from __future__ import annotations

import ipaddress
import shlex
from dataclasses import dataclass, field
from typing import Any

from django.db.models import Case, Count, IntegerField, Q, QuerySet, Value, When

from webapp.containers import selectors
from webapp.containers.models import Container
from webapp.core import states

EVERYWHERE = ("", "0.0.0.0", "::")
PORTS_IN_A_ROW = 2
RESTARTS = {"no": "never", "on-failure": "on failure", "always": "always", "unless-stopped": "unless stopped"}


# --- ports ----------------------------------------------------------------------------------------------------


def port_list(container: Container, host: str, *, unpublished: bool = True) -> list[dict[str, Any]]:
    """Return published ports (with the address that opens them, where a browser can), then those only exposed."""
    shown, seen = [], set()
    for port in container.summary.get("ports") or []:
        inner, outer, protocol = (
            port.get("container_port"),
            port.get("host_port"),
            port.get("protocol", "tcp"),
        )
        if (outer, inner, protocol) in seen:
            continue  # the same port on IPv4 and IPv6
        seen.add((outer, inner, protocol))
        suffix = "" if protocol == "tcp" else f"/{protocol}"
        url = _url(port.get("host_ip", ""), outer, host) if protocol == "tcp" else ""
        shown.append({"text": f"{outer}→{inner}{suffix}", "url": url, "published": True})
    if unpublished:
        published = {(inner, protocol) for _, inner, protocol in seen}
        for exposed in sorted((container.record.get("config") or {}).get("ExposedPorts") or {}):
            number, _, protocol = exposed.partition("/")
            if number.isdecimal() and (int(number), protocol or "tcp") not in published:
                shown.append(
                    {"text": number if protocol in ("", "tcp") else exposed, "url": "", "published": False}
                )
    return shown


def _url(address: str, port: Any, host: str) -> str:
    """Return where a browser finds a published port; `host` is the name under which this site was reached."""
    if address in EVERYWHERE:
        place = host
    else:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return ""
        place = host if parsed.is_loopback else f"[{parsed}]" if parsed.version == 6 else str(parsed)
    return f"http://{place}:{port}/"


# --- lists ----------------------------------------------------------------------------------------------------


@dataclass
class Group:
    """Containers of one application; the nameless group holds the others."""

    name: str
    rows: list[Container] = field(default_factory=list)

    @property
    def running(self) -> int:
        return sum(row.status == "running" for row in self.rows)

    @property
    def networks(self) -> list[str]:
        names = {
            entry["name"]
            for row in self.rows
            for entry in row.summary.get("networks") or []
            if entry.get("name")
        }
        return sorted(names - {"bridge"})


def dress(rows: list[Container], host: str) -> list[Container]:
    """Give each row what its line in a list shows."""
    for row in rows:
        ports = _listed_ports(row, host)
        row.ports = ports[:PORTS_IN_A_ROW]  # type: ignore[attr-defined]
        row.more_ports = max(0, len(ports) - PORTS_IN_A_ROW)  # type: ignore[attr-defined]
        row.actions = " ".join(verb for verb in selectors.actions_of(row) if verb != "remove")  # type: ignore[attr-defined]
        row.kind = states.kind_of(row)  # type: ignore[attr-defined]
    return rows


def _listed_ports(row: Container, host: str) -> list[dict[str, Any]]:
    return port_list(
        row, host, unpublished=False
    )  # lists do not load the record, which holds the exposed ones


def grouped(rows: list[Container]) -> list[Group]:
    """Return rows by application, in the order in which they come."""
    groups: dict[str, Group] = {}
    for row in rows:
        groups.setdefault(row.project, Group(row.project)).rows.append(row)
    return list(groups.values())


def by_application(found: QuerySet[Container]) -> QuerySet[Container]:
    """Order by application, what has none last, then by name."""
    alone = Case(When(project="", then=Value(1)), default=Value(0), output_field=IntegerField())
    return found.annotate(alone=alone).order_by("alone", "project", "name")


def state_counts() -> dict[str, int]:
    """Return how many containers are of each kind of `core.states`, in one query."""
    kinds = (*states.ORDER, "attention", "stopped")
    asked = {kind.replace("-", "_"): Count("pk", filter=states.query_of(kind)) for kind in kinds}
    found = Container.objects.aggregate(total=Count("pk"), **asked)
    return {kind: found[kind.replace("-", "_")] for kind in (*kinds, "total")}


def search_query(text: str) -> tuple[Q, list[str]]:
    """Return the condition for what was typed into the filter, and the labels in it (`key=value`)."""
    words = text.split()
    labels = [word for word in words if "=" in word]
    condition = Q()
    for word in words:
        if word not in labels:
            condition &= (
                Q(name__icontains=word)
                | Q(image__icontains=word)
                | Q(project__icontains=word)
                | Q(pk__startswith=word.lower())
            )
    return condition, labels


def changes_of(answer: dict[str, Any] | None) -> list[dict[str, str]]:
    """Return what a node says of changed paths, as `{kind, path}` (it may send pairs)."""
    rows = (answer or {}).get("changes") or []
    return [row if isinstance(row, dict) else {"kind": str(row[0]), "path": str(row[1])} for row in rows]


# --- one container --------------------------------------------------------------------------------------------


def limits(container: Container) -> dict[str, Any]:
    """Return the limits that it runs under, and the node's size where it has none."""
    resources = (container.record.get("spec") or {}).get("resources") or {}
    cpus = resources.get("cpus") or 0
    if not cpus and resources.get("cpu_quota") and resources.get("cpu_period"):
        cpus = resources["cpu_quota"] / resources["cpu_period"]
    info = container.node.info or {}
    cores = info.get("cpus") or 1
    pids = resources.get("pids_limit") or 0
    return {
        "memory_bytes": resources.get("memory_bytes") or 0,
        "cpus": f"{cpus:g}" if cpus else "",
        "cpu_percent": int(cpus * 100),
        "pids_limit": pids if pids > 0 else 0,
        "node_memory_bytes": info.get("memory_bytes") or 0,
        "node_cpu_percent": int(cores) * 100,
        "restart": (container.record.get("spec") or {}).get("restart") or {},
    }


def facts(container: Container, host: str) -> dict[str, Any]:
    """Return what stands beside a container's log."""
    record = container.record
    spec, config = record.get("spec") or {}, record.get("config") or {}
    health = record.get("health") or {}
    results = health.get("log") or []
    restart = spec.get("restart") or {}
    words = RESTARTS.get(restart.get("name", "no"), restart.get("name", ""))
    if restart.get("maximum_retry_count"):
        words += f", at most {restart['maximum_retry_count']} times"
    return {
        "limits": limits(container),
        "health": {
            "failing_streak": health.get("failing_streak") or 0,
            "last": results[-1] if results else None,
            "test": _test_words(spec.get("healthcheck") or config.get("Healthcheck") or {}),
            "interval_s": (spec.get("healthcheck") or {}).get("interval_s") or 0,
        },
        "endpoints": record.get("endpoints") or [],
        "network_mode": spec.get("network_mode", "bridge"),
        "ports": port_list(container, host),
        "user": spec.get("user") or config.get("User") or "",
        "mapped": spec.get("userns_mode") != "host" and not spec.get("privileged"),
        "restart": words,
        "env_count": len(config.get("Env") or spec.get("env") or []),
        "mounts": container.summary.get("mounts") or [],
    }


def _test_words(check: dict[str, Any]) -> str:
    test = check.get("test") or check.get("Test") or []
    if not test or test[0] == "NONE":
        return ""
    return (
        " ".join(test[1:]) if test[0] == "CMD-SHELL" else shlex.join(test[1:] if test[0] == "CMD" else test)
    )


def detail_sections(container: Container, *, show_env: bool) -> list[dict[str, Any]]:
    """Return everything that can be read of a container's configuration, as titled lists of facts."""
    record = container.record
    spec, config = record.get("spec") or {}, record.get("config") or {}
    resources = spec.get("resources") or {}
    return [
        _section("What runs", [
            ("Image", container.image, f"/images/{container.image_id.removeprefix('sha256:')[:12]}/"),
            ("Entrypoint", shlex.join(config.get("Entrypoint") or []), None),
            ("Command", shlex.join(config.get("Cmd") or []), None),
            ("Runs as", container.summary.get("command", ""), None),
            ("Folder", config.get("WorkingDir") or spec.get("workdir") or "/", None),
            ("User", config.get("User") or spec.get("user") or "root", None),
            ("Hostname", spec.get("hostname") or container.id[:12], None),
            ("Stop signal", spec.get("stop_signal") or config.get("StopSignal") or "SIGTERM", None),
            ("Terminal", "yes" if spec.get("tty") else "no", None),
        ]),
        _section("Environment", [(name, value if show_env else "hidden from viewers", None) for name, value in env_of(config, spec)], "No variable is set."),
        _section("Limits", [
            ("Memory", _bytes(resources.get("memory_bytes")), None),
            ("CPU", f"{resources['cpus']:g} cores" if resources.get("cpus") else "", None),
            ("Processes", str(resources.get("pids_limit") or ""), None),
            ("Shared memory", _bytes(spec.get("shm_size_bytes")), None),
            ("CPU set", resources.get("cpuset_cpus", ""), None),
        ], "None: it may use all of the node."),
        _section("Rights", [
            ("User namespace", "of the host" if spec.get("userns_mode") == "host" else "its own: root inside is nobody outside", None),
            ("Privileged", "yes" if spec.get("privileged") else "", None),
            ("Capabilities added", ", ".join(spec.get("cap_add") or []), None),
            ("Capabilities dropped", ", ".join(spec.get("cap_drop") or []), None),
            ("Devices", ", ".join(item.get("path_on_host", "") for item in spec.get("devices") or []), None),
            ("Root file system", "read only" if spec.get("read_only") else "", None),
            ("Security options", ", ".join(spec.get("security_opt") or []), None),
        ]),
        _section("Mounts", [(m.get("target", ""), f"{m.get('type')} {m.get('name') or m.get('source', '')}{' (read only)' if m.get('read_only') else ''}", f"/volumes/{m['name']}/" if m.get("type") == "volume" and m.get("name") else None) for m in record.get("mounts") or []], "None: what it writes goes with it."),
        _section("Labels", sorted((name, value, None) for name, value in (container.summary.get("labels") or {}).items()), "None."),
        _section("Times", [
            ("Made", _moment(record.get("created_at")), None),
            ("Started", _moment(record.get("started_at")), None),
            ("Ended", _moment(record.get("finished_at")), None),
            ("Exit code", "" if container.exit_code is None else str(container.exit_code), None),
            ("Restarts", str(container.restart_count), None),
            ("Confirmed", container.confirmed_at.strftime("%Y-%m-%d %H:%M:%S UTC") if container.confirmed_at else "not yet", None),
        ]),
    ]  # fmt: skip


def env_of(config: dict[str, Any], spec: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the variables that it runs with: the image's and its own, by name."""
    pairs = dict(item.split("=", 1) for item in config.get("Env") or [] if "=" in item)
    pairs |= {name: str(value) for name, value in (spec.get("env") or {}).items() if value is not None}
    return sorted(pairs.items())


def _section(
    title: str, rows: list[tuple[str, str, str | None]], empty: str = "Nothing to say."
) -> dict[str, Any]:
    plain = (
        "Made",
        "Started",
        "Ended",
        "Confirmed",
        "User namespace",
        "Terminal",
        "Privileged",
        "Root file system",
    )
    shown = [
        {"name": name, "value": value, "link": link, "code": name not in plain}
        for name, value, link in rows
        if value
    ]
    return {"title": title, "facts": shown, "empty": empty}


def _bytes(amount: Any) -> str:
    from webapp.core.templatetags.wf import memory_text

    return memory_text(amount) if amount else ""


def _moment(seconds: Any) -> str:
    from webapp.core.times import from_seconds

    moment = from_seconds(seconds)
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC") if moment else ""
