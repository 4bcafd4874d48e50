"""Networks: the list, one with its members and a tester, and what people do with them."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from webapp.accounts.permissions import Permission
from webapp.containers import selectors as containers
from webapp.containers import shown as container_rows
from webapp.containers.models import Container
from webapp.core import states
from webapp.core.answers import accepted, ask_or_do, attempt, host_of, number, part_of, refused
from webapp.core.errors import AppError, Invalid
from webapp.core.routes import page
from webapp.networks import probing, selectors, services
from webapp.networks.models import Network

BOX_W, BOX_H, GAP_X, GAP_Y = 168, 68, 44, 16
DRAWN = 12


def url_of(network: Network) -> str:
    return f"/networks/{network.name}/"


@page(Permission.VIEW)
def network_list(request: HttpRequest) -> HttpResponse:
    text = request.GET.get("q", "").strip()
    listed = part_of(
        request,
        selectors.network_list(name="" if "=" in text else text, label=text if "=" in text else "").order_by(
            "name"
        ),
    )
    for network in listed.items:
        network.built_in = network.name in selectors.BUILT_IN
    return render(request, "networks/list.html", {"page": listed, "text": text})


@page(Permission.VIEW)
def network(request: HttpRequest, ref: str) -> HttpResponse:
    found = selectors.network_get(ref)
    members = selectors.member_list(found)
    rows = {
        c.pk: c
        for c in Container.objects.select_related("node").filter(pk__in=[m["container_id"] for m in members])
    }
    host = host_of(request)
    for member in members:
        member["row"] = rows[member["container_id"]]
        member["ports"] = container_rows.port_list(member["row"], host)
    outside = [
        c
        for c in containers.container_list().filter(node=found.node).order_by("name")[:300]
        if c.pk not in rows
    ]
    result, problem = None, None
    if request.GET.get("from") and request.GET.get("to"):
        result, problem = attempt(lambda: _probe(request, members))
    context = {
        "network": found,
        "url": url_of(found),
        "members": members,
        "graph": graph_of(found, members),
        "outside": outside,
        "built_in": found.name in selectors.BUILT_IN,
        "probe": {name: request.GET.get(name, "") for name in ("from", "to", "port")},
        "result": result,
        "problem": problem,
        "running": [member for member in members if member["status"] == "running"],
        "call_path": f"/api/v1/networks/{found.name}/",
        "call_docker": f"docker network inspect {found.name}",
    }
    return render(request, "networks/network.html", context)


def _probe(request: HttpRequest, members: list[dict[str, Any]]) -> dict[str, Any]:
    source = next(
        (member["row"] for member in members if member["container_id"] == request.GET["from"]), None
    )
    if source is None:
        raise Invalid("that container is not on this network any more")
    name, port = request.GET["to"].strip(), number(request.GET.get("port", ""), 0)
    return probing.trace(services.probe(source, name, port), name, port)


def graph_of(network: Network, members: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the picture: published ports, then members (those that publish first), then the name server below them."""
    drawn = members[:DRAWN]
    outer = [m for m in drawn if any(port["published"] for port in m["ports"])]
    inner = [m for m in drawn if m not in outer]
    left = 112 + GAP_X if outer else 0
    boxes, edges = [], []
    for column, group in enumerate(
        [outer, *[inner[at : at + 3] for at in range(0, len(inner), 3)]]
        if outer
        else [inner[at : at + 3] for at in range(0, len(inner), 3)]
    ):
        for row, member in enumerate(group):
            boxes.append(_box(member, left + 24 + column * (BOX_W + GAP_X), 40 + row * (BOX_H + GAP_Y)))
    published = []
    for box, member in zip(boxes, outer, strict=False):
        text = next(port["text"].split("→")[0] for port in member["ports"] if port["published"])
        published.append({"x": 0, "y": box["y"] + 8, "text": f"port {text}"})
        edges.append(f"M112 {box['y'] + BOX_H / 2:g}H{box['x']}")
    bottom = max([box["y"] for box in boxes], default=0) + BOX_H
    right = max([box["x"] for box in boxes], default=0) + BOX_W + 24
    return {
        "boxes": boxes, "published": published, "edges": edges, "frame": {"x": left, "y": 4, "w": max(right - left, 260), "h": bottom + 64},
        "server": {"x": left + 24, "y": bottom + 16}, "width": max(right, left + 262) + 2, "height": bottom + 74, "more": len(members) - len(drawn),
    }  # fmt: skip


def _box(member: dict[str, Any], x: int, y: int) -> dict[str, Any]:
    kind = states.kind_of(member["row"])
    names = ", ".join(name for name in member.get("aliases") or [] if name != member["container"])
    listens = next((port["text"].split("→")[-1] for port in member["ports"]), "")
    note = ", ".join(
        part for part in (f"port {listens}" if listens else "", f"also {names}" if names else "") if part
    )
    return {
        "x": x, "y": y, "w": BOX_W, "h": BOX_H, "name": member["container"], "address": member.get("ipv4_address") or "no address", "note": note,
        "id": member["container_id"][:12], "glyph": kind if kind != "removed" else "exited-ok", "tone": states.TONE_OF[kind],
    }  # fmt: skip


# --- what people do -------------------------------------------------------------------------------------------


@page(GET=Permission.OPERATE, POST=Permission.OPERATE)
def network_new(request: HttpRequest) -> HttpResponse:
    form = request.POST
    context = {
        name: form.get(name, "") for name in ("name", "subnet", "gateway", "internal", "ipv6", "labels")
    }

    def do() -> HttpResponse:
        subnet = {name: context[name].strip() for name in ("subnet", "gateway") if context[name].strip()}
        labels = dict(row.partition("=")[::2] for row in context["labels"].splitlines() if row.strip())
        _, operation = services.network_create(
            request.actor,  # type: ignore[attr-defined]
            name=context["name"].strip(),
            internal=bool(context["internal"]),
            ipv6=bool(context["ipv6"]),
            subnets=[subnet] if subnet else [],
            labels=labels,
        )
        return accepted(request, operation, f"Making network {context['name']}", to="/networks/")

    return ask_or_do(request, "networks/new.html", context, do, back="/networks/")


@page(POST=Permission.OPERATE)
def network_connect(request: HttpRequest, ref: str) -> HttpResponse:
    found = selectors.network_get(ref)
    try:
        container = containers.container_get(request.POST.get("container", ""))
        aliases = request.POST.get("aliases", "").replace(",", " ").split()
        endpoint = {"aliases": aliases, "ipv4_address": request.POST.get("ipv4_address", "").strip()}
        operation = services.network_connect(request.actor, found, container, endpoint)  # type: ignore[attr-defined]
    except AppError as error:
        return refused(request, error)
    return accepted(request, operation, f"Connecting {container.name} to {found.name}", to=url_of(found))


@page(GET=Permission.OPERATE, POST=Permission.OPERATE)
def network_disconnect(request: HttpRequest, ref: str, container: str) -> HttpResponse:
    found, member = selectors.network_get(ref), containers.container_get(container)
    context = {
        "network": found,
        "container": member,
        "others": [e for e in member.summary.get("networks") or [] if e.get("name") != found.name],
    }

    def do() -> HttpResponse:
        operation = services.network_disconnect(request.actor, found, member)  # type: ignore[attr-defined]
        return accepted(
            request, operation, f"Disconnecting {member.name} from {found.name}", to=url_of(found)
        )

    return ask_or_do(request, "networks/disconnect.html", context, do, back=url_of(found))


@page(GET=Permission.OPERATE, POST=Permission.OPERATE)
def network_remove(request: HttpRequest, ref: str) -> HttpResponse:
    found = selectors.network_get(ref)
    members = selectors.member_list(found)

    def do() -> HttpResponse:
        operation = services.network_remove(request.actor, found)  # type: ignore[attr-defined]
        return accepted(request, operation, f"Removing network {found.name}", to="/networks/")

    return ask_or_do(
        request, "networks/remove.html", {"network": found, "members": members}, do, back=url_of(found)
    )


@page(GET=Permission.OPERATE, POST=Permission.OPERATE)
def network_prune(request: HttpRequest) -> HttpResponse:
    unused = [
        n
        for n in selectors.network_list().order_by("name")[:300]
        if not n.members and n.name not in selectors.BUILT_IN
    ]

    def do() -> HttpResponse:
        operation = services.network_prune(request.actor)  # type: ignore[attr-defined]
        return accepted(request, operation, "Removing unused networks", to="/networks/")

    return ask_or_do(request, "networks/prune.html", {"unused": unused}, do, back="/networks/")
