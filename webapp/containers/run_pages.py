"""The run form: an image's own ports, variables and volumes filled in, and what one wants beside them."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import Any

from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import render

from webapp.accounts.permissions import Permission, Right
from webapp.containers import selectors, services, shown
from webapp.containers.models import Container
from webapp.containers.verb_pages import decimal_of, limits_from
from webapp.core.answers import accepted, number
from webapp.core.errors import AppError, Invalid
from webapp.core.routes import page
from webapp.images import selectors as images
from webapp.networks import selectors as networks
from webapp.nodes import selectors as nodes

HIDDEN_ENV = ("PATH",)
NEEDED = {
    "postgres": ("POSTGRES_PASSWORD",),
    "mysql": ("MYSQL_ROOT_PASSWORD",),
    "mariadb": ("MARIADB_ROOT_PASSWORD",),
}
FLAGS = ("tty", "auto_remove", "read_only", "init", "privileged")


@dataclass
class Filled:
    """What the form shows: the values of its fields and its rows of ports, variables and mounts."""

    values: dict[str, Any] = field(default_factory=dict)
    ports: list[dict[str, Any]] = field(default_factory=list)
    env: list[dict[str, Any]] = field(default_factory=list)
    mounts: list[dict[str, Any]] = field(default_factory=list)


@page(GET=Permission.OPERATE, POST=Permission.OPERATE)
def run(request: HttpRequest) -> HttpResponse:
    if request.method == "POST":
        return _run(request)
    like = request.GET.get("like", "")
    filled = (
        _like(selectors.container_get(like))
        if like
        else _from_image(request.GET.get("image", "").strip(), request.GET.get("name", "").strip())
    )
    return _form(request, filled)


def _run(request: HttpRequest) -> HttpResponse:
    try:
        node = nodes.node_for(request.POST.get("node", ""))
        container, operation = services.container_create(
            request.actor,  # type: ignore[attr-defined]
            spec_of(request.POST),
            node=node,
            start=request.POST.get("then") != "create",
            pull=request.POST.get("pull") or "missing",
        )
    except AppError as error:
        if error.status == 401:
            raise
        return _form(request, _from_post(request.POST), error, status=403 if error.status == 403 else 422)
    words = "Running" if request.POST.get("then") != "create" else "Creating"
    return accepted(request, operation, f"{words} {container.name}", to=f"/containers/{container.id[:12]}/")


def _form(
    request: HttpRequest, filled: Filled, problem: AppError | None = None, status: int = 200
) -> HttpResponse:
    defaults = image_facts(str(filled.values.get("image", "")))
    places = [node for node in nodes.node_list() if node.is_enabled]
    context = {
        "filled": filled,
        "problem": problem,
        "fields": (problem.extra.get("fields") or {}) if problem else {},
        "defaults": defaults,
        "images": [name for image in images.image_list()[:200] for name in image.names],
        "networks": networks.network_list()[:100],
        "nodes": places,
        "node": next(
            (node for node in places if node.name == filled.values.get("node")), places[0] if places else None
        ),
        "restarts": shown.RESTARTS,
        "lacking": _lacking(request),
    }
    return render(request, "containers/run.html", context, status=status)


def _lacking(request: HttpRequest) -> str:
    words = {
        Right.HOST_MOUNTS: "host mounts",
        Right.PRIVILEGED: "privileged",
        Right.HOST_NAMESPACES: "host namespaces",
        Right.DEVICES: "devices",
    }
    lacking = [text for right, text in words.items() if right not in request.actor.rights]  # type: ignore[attr-defined]
    return ", ".join(lacking)


# --- what the form starts with --------------------------------------------------------------------------------


def image_facts(reference: str) -> dict[str, Any]:
    """Return what is known of the image: whether it is here, its size, and what it says itself."""
    if not reference:
        return {}
    try:
        image = images.image_get(reference)
        return {
            **services.image_defaults(reference),
            "here": True,
            "size_bytes": image.size_bytes,
            "name": image.shown_name,
        }
    except AppError:
        return {"here": False}


def _from_image(reference: str, name: str = "") -> Filled:
    facts = image_facts(reference)
    filled = Filled(
        {"image": reference, "name": name, "restart": "no", "memory_unit": "MiB", "network": "bridge"}
    )
    if not facts.get("here"):
        return filled
    filled.ports = [_port_row(exposed) for exposed in facts["ports"]]
    needed = next(
        (names for start, names in NEEDED.items() if reference.split("/")[-1].startswith(start)), ()
    )
    filled.env = [
        {"name": variable, "value": "", "image": "needed, not set", "secret": True} for variable in needed
    ]
    filled.env += [
        {"name": key, "value": "", "image": value}
        for key, value in facts["env"].items()
        if key not in HIDDEN_ENV
    ]
    base = name or reference.split("/")[-1].split(":")[0].split("@")[0]
    filled.mounts = [
        {
            "kind": "volume",
            "source": f"{base}-data" if index == 0 else f"{base}-data-{index + 1}",
            "target": target,
            "access": "write",
            "image": True,
        }
        for index, target in enumerate(facts["volumes"])
    ]
    return filled


def _port_row(exposed: str) -> dict[str, Any]:
    inner, _, protocol = exposed.partition("/")
    return {"host": "", "container": inner, "protocol": protocol or "tcp", "image": True}


def _like(container: Container) -> Filled:
    """Return the form as it would have been filled in for a container that exists."""
    spec = container.record.get("spec") or {}
    facts = image_facts(container.image)
    resources = spec.get("resources") or {}
    memory = resources.get("memory_bytes") or 0
    networks_of = spec.get("networks") or []
    filled = Filled(
        {
            "image": container.image,
            "name": _next_name(container.name),
            "command": shlex.join(spec.get("command") or []),
            "network": networks_of[0]["name"] if networks_of else spec.get("network_mode") or "bridge",
            "aliases": " ".join(networks_of[0].get("aliases") or []) if networks_of else "",
            "memory": f"{memory / 1024**2:g}" if memory else "",
            "memory_unit": "MiB",
            "cpus": f"{resources['cpus']:g}" if resources.get("cpus") else "",
            "restart": (spec.get("restart") or {}).get("name", "no"),
            "user": spec.get("user", ""),
            "workdir": spec.get("workdir", ""),
            "node": container.node.name,
            **{flag: bool(spec.get(flag)) for flag in FLAGS},
        }
    )
    filled.ports = [
        {
            "host": "" if index or not port.get("host_port") else str(port["host_port"]),
            "container": str(port["container_port"]),
            "protocol": port.get("protocol", "tcp"),
        }
        for index, port in enumerate(spec.get("ports") or [])
    ]
    filled.env = [
        {"name": key, "value": value or "", "image": (facts.get("env") or {}).get(key, "not set")}
        for key, value in (spec.get("env") or {}).items()
    ]
    filled.mounts = [
        {
            "kind": m.get("type", "volume"),
            "source": m.get("source", ""),
            "target": m["target"],
            "access": "read" if m.get("read_only") else "write",
        }
        for m in spec.get("mounts") or []
    ]
    return filled


def _next_name(name: str) -> str:
    stem, _, last = name.rpartition("-")
    return f"{stem}-{number(last, 1) + 1}" if stem and last.isdecimal() else f"{name}-2"


def _from_post(form: QueryDict) -> Filled:
    values: dict[str, Any] = {
        name: form.get(name, "") for name in form if not name.startswith(("port_", "env_", "mount_"))
    }
    values |= {flag: bool(form.get(flag)) for flag in FLAGS}
    columns = _rows(form, "port_host", "port_container", "port_protocol")
    facts = image_facts(values.get("image", ""))
    return Filled(
        values,
        [{"host": host, "container": inner, "protocol": protocol} for host, inner, protocol in columns],
        [
            {"name": name, "value": value, "image": (facts.get("env") or {}).get(name, "")}
            for name, value in _rows(form, "env_name", "env_value")
        ],
        [
            {"kind": kind, "source": source, "target": target, "access": access}
            for kind, source, target, access in _rows(
                form, "mount_kind", "mount_source", "mount_target", "mount_access"
            )
        ],
    )


def _rows(form: QueryDict, *names: str) -> list[tuple[str, ...]]:
    columns = [[value.strip() for value in form.getlist(name)] for name in names]
    longest = max(map(len, columns))
    padded = [column + [""] * (longest - len(column)) for column in columns]
    return list(zip(*padded, strict=True))


# --- what the form asks for -----------------------------------------------------------------------------------


def spec_of(form: QueryDict) -> dict[str, Any]:
    """Return the fields of `POST /containers/` for a filled form. Raises `Invalid` for what cannot be read."""
    spec: dict[str, Any] = {"image": form.get("image", "").strip()}
    for name in ("name", "user", "workdir", "command", "hostname"):
        if value := form.get(name, "").strip():
            spec[name] = value
    network = form.get("network", "").strip()
    if network in ("host", "none"):
        spec["network_mode"] = network
    elif network and network != "bridge":
        spec["networks"] = [network]
    if aliases := form.get("aliases", "").replace(",", " ").split():
        spec["aliases"] = aliases
    spec["ports"] = [
        _port_text(*row)
        for row in _rows(form, "port_host", "port_container", "port_protocol")
        if row[0] and row[1]
    ]
    spec["exposed_ports"] = [
        f"{row[1]}/{row[2] or 'tcp'}"
        for row in _rows(form, "port_host", "port_container", "port_protocol")
        if row[1] and not row[0]
    ]
    spec["env"] = {name: value for name, value in _rows(form, "env_name", "env_value") if name and value}
    spec["mounts"] = [
        _mount(*row)
        for row in _rows(form, "mount_kind", "mount_source", "mount_target", "mount_access")
        if row[2] and (row[1] or row[0] == "tmpfs")
    ]
    spec["restart"] = form.get("restart") or "no"
    spec["resources"] = limits_from(form)
    spec["labels"] = _labels(form.get("labels", ""))
    if shm := decimal_of(form.get("shm", ""), "shm"):
        spec["shm_size_bytes"] = int(shm * 1024**2)
    spec |= {flag: True for flag in FLAGS if form.get(flag)}
    if spec.get("tty"):
        spec["stdin_open"] = True
    return {name: value for name, value in spec.items() if value not in ([], {}, "")}


def _port_text(host: str, inner: str, protocol: str) -> str:
    outer = "" if host.lower() in ("auto", "0", "*") else f"{host}:"
    return f"{outer}{inner}{'/udp' if protocol == 'udp' else ''}"


def _mount(kind: str, source: str, target: str, access: str) -> dict[str, Any]:
    if kind not in ("volume", "bind", "tmpfs"):
        raise Invalid(f"no kind of mount {kind[:20]!r}", fields={"mounts": ["volume, bind or tmpfs"]})
    mount: dict[str, Any] = {"type": kind, "target": target, "read_only": access == "read"}
    if kind != "tmpfs":
        mount["source"] = source
    return mount


def _labels(text: str) -> dict[str, str]:
    pairs = [row.partition("=") for row in text.splitlines() if row.strip()]
    return {name.strip(): value.strip() for name, _, value in pairs}
