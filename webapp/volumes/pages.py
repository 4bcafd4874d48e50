"""Volumes: the list, one with its files and backups, and what people do with them."""

from __future__ import annotations

from urllib.parse import urlencode

from django.db.models import Sum
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone

from webapp.accounts.permissions import Permission
from webapp.containers.models import ContainerVolume
from webapp.core.answers import accepted, ask_or_do, attempt, back_to, done, number, part_of, refused
from webapp.core.errors import AppError, Invalid, Missing
from webapp.core.folders import clean_path, folder, not_to_see
from webapp.core.routes import page
from webapp.volumes import selectors, services
from webapp.volumes.models import Volume

SORTS = {"name": "name", "size": "size_bytes", "made": "created_at", "used": "users"}
SHOW = (("", "All"), ("used", "In use"), ("unused", "Unused"), ("unsaved", "Not backed up"))


def url_of(volume: Volume) -> str:
    return f"/volumes/{volume.name}/"


@page(Permission.VIEW)
def volume_list(request: HttpRequest) -> HttpResponse:
    text, show, node = (request.GET.get(name, "").strip() for name in ("q", "show", "node"))
    dangling = {"used": False, "unused": True}.get(show)
    found = selectors.volume_list(
        name="" if "=" in text else text, label=text if "=" in text else "", node=node, dangling=dangling
    )
    if show == "unsaved":
        found = found.filter(backed_up_at=None)
    sort = request.GET.get("sort", "-size")
    key = SORTS.get(sort.lstrip("-"), "size_bytes")
    listed = part_of(request, found.order_by(f"-{key}" if sort.startswith("-") else key, "name"))
    _dress(listed.items)
    everything = list(selectors.volume_list().values_list("size_bytes", "users", "backed_up_at"))
    context = {
        "page": listed,
        "text": text,
        "filtered": bool(text or show or node),
        "total": {
            "count": len(everything),
            "size": sum(size or 0 for size, _, _ in everything),
            "unused": sum(not users for _, users, _ in everything),
            "unsaved": sum(at is None for _, _, at in everything),
        },
        "choices": [{"key": key, "label": label, "current": key == show} for key, label in SHOW],
        "columns": [
            _column(name, label, sort)
            for name, label in (("name", "Name"), ("size", "Size"), ("made", "Made"))
        ],
    }
    return render(request, "volumes/list.html", context)


def _column(name: str, label: str, sort: str) -> dict[str, str]:
    is_sorted = sort.lstrip("-") == name
    return {
        "name": name,
        "label": label,
        "sorted": ("descending" if sort.startswith("-") else "ascending") if is_sorted else "",
        "next": name if sort == f"-{name}" else f"-{name}",
    }


def _dress(rows: list[Volume]) -> None:
    """Give each row its users (one query for all) and the width of its bar."""
    uses: dict[tuple[int, str], list[ContainerVolume]] = {}
    found = (
        ContainerVolume.objects.filter(volume__in=[row.name for row in rows])
        .select_related("container")
        .order_by("container__name")
    )
    for use in found:
        uses.setdefault((use.container.node_id, use.volume), []).append(use)
    largest = max([row.size_bytes or 0 for row in rows], default=1) or 1
    for row in rows:
        row.uses = uses.get((row.node_id, row.name), [])
        row.largest = largest


@page(Permission.VIEW)
def volume(request: HttpRequest, name: str) -> HttpResponse:
    found = selectors.volume_get(name, request.GET.get("node", ""))
    path = clean_path(request.GET.get("path", "/"))
    problem = not_to_see(request.actor)  # type: ignore[attr-defined]
    answer, problem = (None, problem) if problem else attempt(lambda: services.browse(found, path))
    quoted = urlencode({"path": ""})
    context = {
        "volume": found,
        "url": url_of(found),
        "users": selectors.users_of(found),
        "backups": list(selectors.backup_list(found.name).filter(node=found.node)[:30]),
        "schedules": list(selectors.schedule_list(found)),
        "problem": problem,
        "path": path,
        **folder(path, (answer or {}).get("entries") or []),
        "download_base": f"/api/v1/volumes/{found.name}/file/?{quoted}",
        "now": timezone.now(),
    }
    return render(request, "volumes/volume.html", context)


# --- what people do -------------------------------------------------------------------------------------------


@page(GET=Permission.OPERATE, POST=Permission.OPERATE)
def volume_new(request: HttpRequest) -> HttpResponse:
    context = {"name": request.POST.get("name", ""), "labels": request.POST.get("labels", "")}

    def do() -> HttpResponse:
        labels = dict(row.partition("=")[::2] for row in context["labels"].splitlines() if row.strip())
        operation = services.volume_create(request.actor, name=context["name"].strip(), labels=labels)  # type: ignore[attr-defined]
        return accepted(
            request, operation, f"Making volume {context['name'] or 'with a name of its own'}", to="/volumes/"
        )

    return ask_or_do(request, "volumes/new.html", context, do, back="/volumes/")


@page(POST=Permission.OPERATE)
def volume_backup(request: HttpRequest, name: str) -> HttpResponse:
    found = selectors.volume_get(name)
    try:
        _, operation = services.volume_backup(
            request.actor, found, compression=request.POST.get("compression") or "zstd"
        )  # type: ignore[attr-defined]
    except AppError as error:
        return refused(request, error)
    return accepted(request, operation, f"Backing up {found.name}", to=back_to(request, url_of(found)))


@page(GET=Permission.OPERATE, POST=Permission.OPERATE)
def volume_backup_folder(request: HttpRequest, name: str) -> HttpResponse:
    """Make a backup that is kept in a folder of the node."""
    found = selectors.volume_get(name)
    directory = request.POST.get("directory", "").strip()

    def do() -> HttpResponse:
        if not directory:
            raise Invalid("say which folder", fields={"directory": ["missing"]})
        _, operation = services.volume_backup(request.actor, found, directory=directory)  # type: ignore[attr-defined]
        return accepted(request, operation, f"Backing up {found.name}", to=url_of(found))

    context = {"volume": found, "directory": directory}
    return ask_or_do(request, "volumes/backup_folder.html", context, do, back=url_of(found))


@page(GET=Permission.OPERATE, POST=Permission.OPERATE, upload=True)
def volume_restore(request: HttpRequest, name: str) -> HttpResponse:
    """Restore a kept backup or an uploaded one, into this volume or a new one; all or nothing."""
    source = request.POST if request.method == "POST" else request.GET
    backup_id = source.get("backup", "")
    backup = selectors.backup_get(backup_id) if backup_id else None
    into = source.get("into", name).strip()
    existing, _ = attempt(lambda: selectors.volume_get(into))
    users = selectors.users_of(existing) if existing else []
    context = {
        "name": name,
        "into": into,
        "backup": backup,
        "existing": existing,
        "users": [user for user in users if user["status"] in ("running", "paused")],
        "fallback": selectors.backup_list(into).filter(status="ready", proven=True).first()
        if existing
        else None,
    }

    def do() -> HttpResponse:
        upload = request.FILES.get("archive")
        if backup is None and upload is None:
            raise Invalid("choose an archive first", fields={"archive": ["missing"]})
        files = [row.strip() for row in request.POST.get("files", "").splitlines() if row.strip()]
        operation = services.volume_restore(
            request.actor,
            into,
            spool_id=upload.take() if upload is not None else "",
            backup=backup,
            files=files,  # type: ignore[attr-defined]
        )
        return accepted(
            request, operation, f"Restoring {into}", to=f"/volumes/{into}/" if existing else "/volumes/"
        )

    return ask_or_do(request, "volumes/restore.html", context, do, back=f"/volumes/{name}/")


@page(GET=Permission.OPERATE, POST=Permission.OPERATE)
def volume_remove(request: HttpRequest, name: str) -> HttpResponse:
    found = selectors.volume_get(name)
    users = selectors.users_of(found)
    newest = selectors.backup_list(found.name).filter(node=found.node, status="ready", proven=True).first()
    context = {"volume": found, "users": users, "newest": newest}

    def do() -> HttpResponse:
        actor = request.actor  # type: ignore[attr-defined]
        if request.POST.get("backup_first"):
            _, operation = services.volume_backup(actor, found)
            return accepted(
                request,
                operation,
                f"Backing up {found.name}; remove it when that is proven",
                to=url_of(found),
            )
        operation = services.volume_remove(actor, found)
        return accepted(request, operation, f"Removing volume {found.name}", to="/volumes/")

    return ask_or_do(request, "volumes/remove.html", context, do, back=url_of(found))


@page(GET=Permission.OPERATE, POST=Permission.OPERATE)
def volume_prune(request: HttpRequest) -> HttpResponse:
    unused = list(selectors.volume_list(dangling=True).order_by("-size_bytes")[:200])
    context = {
        "unused": unused,
        "nameless": [v for v in unused if v.anonymous],
        "size": sum(v.size_bytes or 0 for v in unused),
    }

    def do() -> HttpResponse:
        actor = request.actor  # type: ignore[attr-defined]
        chosen = set(request.POST.getlist("volume"))
        operations = [services.volume_remove(actor, v) for v in unused if v.name in chosen]
        if not operations:
            raise Invalid("no volume was chosen", hint="tick those that may go")
        words = f"volume {operations[0].target}" if len(operations) == 1 else f"{len(operations)} volumes"
        return accepted(request, operations[-1], f"Removing {words}", to="/volumes/")

    return ask_or_do(request, "volumes/prune.html", context, do, back="/volumes/")


@page(Permission.VIEW)
def backup_list(request: HttpRequest) -> HttpResponse:
    """Every backup that is kept, of volumes that are gone too."""
    text = request.GET.get("q", "").strip()
    found = selectors.backup_list()
    listed = part_of(request, found.filter(volume__icontains=text) if text else found)
    there = set(Volume.objects.values_list("node_id", "name"))
    for backup in listed.items:
        backup.is_there = (backup.node_id, backup.volume) in there
    kept = found.filter(status="ready")
    context = {
        "page": listed,
        "text": text,
        "count": kept.count(),
        "size": kept.aggregate(size=Sum("size_bytes"))["size"] or 0,
    }
    return render(request, "volumes/backups.html", context)


@page(GET=Permission.OPERATE, POST=Permission.OPERATE)
def backup_remove(request: HttpRequest, pk: str) -> HttpResponse:
    found = selectors.backup_get(pk)
    others = selectors.backup_list(found.volume).filter(node=found.node, status="ready", proven=True)
    newest = others.exclude(pk=found.pk).first()
    back = back_to(request, "/backups/")

    def do() -> HttpResponse:
        operation = services.backup_remove(request.actor, found)  # type: ignore[attr-defined]
        return accepted(request, operation, f"Removing a backup of {found.volume}", to=back)

    context = {"backup": found, "newest": newest}
    return ask_or_do(request, "volumes/backup_remove.html", context, do, back=back)


@page(POST=Permission.OPERATE)
def schedule_new(request: HttpRequest, name: str) -> HttpResponse:
    found = selectors.volume_get(name)
    try:
        services.schedule_create(
            request.actor,  # type: ignore[attr-defined]
            found,
            every_hours=number(request.POST.get("every_hours", ""), 0),
            keep=number(request.POST.get("keep", ""), 0),
            **{name: number(request.POST.get(name) or "0", -1) for name in services.KEEPS[1:]},
        )
    except AppError as error:
        return refused(request, error)
    return done(request, f"{found.name} is backed up regularly from now on", to=url_of(found))


@page(POST=Permission.OPERATE)
def schedule_remove(request: HttpRequest, name: str, pk: int) -> HttpResponse:
    found = selectors.volume_get(name)
    schedule = selectors.schedule_list(found).filter(pk=pk).first()
    if schedule is None:
        raise Missing("no such schedule")
    services.schedule_remove(request.actor, schedule)  # type: ignore[attr-defined]
    return done(request, "It is not backed up regularly any more; its backups stay", to=url_of(found))
