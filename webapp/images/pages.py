"""The list of images, and the page of one."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from webapp.accounts.permissions import Permission
from webapp.builds import selectors as builds
from webapp.containers import selectors as containers
from webapp.containers import shown as container_rows
from webapp.core.answers import attempt, host_of, number, part_of
from webapp.core.routes import page
from webapp.images import layers, protection, selectors
from webapp.images.models import Image
from webapp.images.records import familiar

SORTS = {"size": "size_bytes", "made": "created_at", "added": "added_at"}
SHOW = {"": None, "named": False, "nameless": True}


@page(Permission.VIEW)
def image_list(request: HttpRequest) -> HttpResponse:
    text, show, node = (request.GET.get(name, "").strip() for name in ("q", "show", "node"))
    found = selectors.image_list(selectors.ImageFilter(search=text, node=node, dangling=SHOW.get(show)))
    used = containers.image_use_counts()
    if show == "unused":
        found = found.exclude(image_id__in=list(used))
    sort = request.GET.get("sort", "-added")
    key = SORTS.get(sort.lstrip("-"), "added_at")
    listed = part_of(request, found.order_by(f"-{key}" if sort.startswith("-") else key, "-id"))
    largest = max([image.size_bytes for image in listed.items], default=1) or 1
    for image in listed.items:
        image.used = used[image.image_id]
        image.largest = largest
    totals = selectors.image_totals()
    context = {
        "page": listed,
        "totals": totals,
        "text": text,
        "filtered": bool(text or show or node),
        "columns": _columns(sort),
        "choices": [
            {"key": key, "label": label, "current": key == show}
            for key, label in (
                ("", "All"),
                ("named", "With a name"),
                ("nameless", "Without"),
                ("unused", "Unused"),
            )
        ],
    }
    return render(request, "images/list.html", context)


def _columns(sort: str) -> dict[str, dict[str, str]]:
    return {
        name: {
            "sorted": ("descending" if sort.startswith("-") else "ascending")
            if name == sort.lstrip("-")
            else "",
            "next": name if sort == f"-{name}" else f"-{name}",
        }
        for name in SORTS
    }


# --- one image ------------------------------------------------------------------------------------------------

TABS = (
    ("layers", "", "Layers"),
    ("config", "config/", "Configuration"),
    ("tags", "tags/", "Tags"),
    ("users", "users/", "Used by"),
    ("json", "json/", "JSON"),
)


def url_of(image: Image) -> str:
    return f"/images/{image.image_id.removeprefix('sha256:')[:12]}/"


def _show(request: HttpRequest, image: Image, tab: str, **context: Any) -> HttpResponse:
    users = containers.containers_of_image(image.image_id)
    build = builds.build_list().filter(image_id=image.image_id).first()
    counts = {"layers": image.summary.get("layers", 0), "tags": len(image.names), "users": len(users)}
    base = {
        "image": image,
        "url": url_of(image),
        "tab": tab,
        "tabs": [
            {"key": key, "path": path, "label": label, "count": counts.get(key)} for key, path, label in TABS
        ],
        "users": users,
        "build": build,
        "call_path": f"/api/v1/images/{image.image_id}/",
        "call_docker": f"docker image inspect {image.shown_name}",
    }
    return render(request, f"images/{tab}.html", base | context)


@page(Permission.VIEW)
def image_layers(request: HttpRequest, ref: str) -> HttpResponse:
    image = selectors.image_get(ref)
    wanted = request.GET.get("layer", "")
    explored, problem = attempt(lambda: layers.explorer(image, number(wanted, 0) - 1 if wanted else None))
    return _show(
        request, image, "layers", explored=explored, problem=problem,
        call_path=f"/api/v1/images/{image.image_id}/history/", call_docker=f"docker image history {image.shown_name}",
    )  # fmt: skip


@page(Permission.VIEW)
def image_config(request: HttpRequest, ref: str) -> HttpResponse:
    image = selectors.image_get(ref)
    config = (image.record.get("config") or {}).get("config") or {}
    return _show(request, image, "config", config=config, facts=_facts(image, config))


def _facts(image: Image, config: dict[str, Any]) -> list[dict[str, Any]]:
    import shlex

    health = config.get("Healthcheck") or {}
    rows = [
        ("Entrypoint", shlex.join(config.get("Entrypoint") or [])),
        ("Command", shlex.join(config.get("Cmd") or [])),
        ("User", config.get("User") or "root"),
        ("Folder", config.get("WorkingDir") or "/"),
        ("Ports", ", ".join(sorted(config.get("ExposedPorts") or {}))),
        ("Volumes", ", ".join(sorted(config.get("Volumes") or {}))),
        ("Stop signal", config.get("StopSignal") or ""),
        ("Health check", " ".join(health.get("Test") or [])),
        ("Platform", image.platform),
        ("Author", (image.record.get("config") or {}).get("author") or ""),
    ]
    return [{"name": name, "value": value} for name, value in rows if value]


@page(Permission.VIEW)
def image_tags(request: HttpRequest, ref: str) -> HttpResponse:
    image = selectors.image_get(ref)
    path, docker = f"/api/v1/images/{image.image_id}/tag/?wait=30", f"docker tag {image.shown_name} NAME:TAG"
    return _show(
        request, image, "tags", call_path=path, call_docker=docker, call_body={"reference": "NAME:TAG"},
        names=[_tag(full) for full in image.summary.get("full_names", [])],
    )  # fmt: skip


def _tag(full: str) -> dict[str, Any]:
    """Return a name with the pattern that protects it; `own`: the pattern is this one name."""
    pattern = protection.pattern_of(full)
    return {
        "name": familiar(full),
        "pattern": protection.shown(pattern),
        "own": pattern == full,
    }


@page(Permission.VIEW)
def image_users(request: HttpRequest, ref: str) -> HttpResponse:
    image = selectors.image_get(ref)
    users = container_rows.dress(containers.containers_of_image(image.image_id), host_of(request))
    related = builds.build_list().filter(image_id=image.image_id)[:20]
    path, docker = (
        f"/api/v1/containers/?image={image.image_id}",
        f"docker ps -a --filter ancestor={image.shown_name}",
    )
    return _show(request, image, "users", rows=users, builds=related, call_path=path, call_docker=docker)


@page(Permission.VIEW)
def image_json(request: HttpRequest, ref: str) -> HttpResponse:
    image = selectors.image_get(ref)
    used = containers.image_use_counts()[image.image_id]
    return _show(
        request,
        image,
        "json",
        json=selectors.detail_json(image, used),
        json_title=f"{image.shown_name}, as REST gives it",
    )
