"""What people do with containers from pages: verbs, questions before them, and several at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest, HttpResponse

from webapp.accounts.actor import Actor
from webapp.accounts.permissions import Permission
from webapp.containers import selectors, services, shown
from webapp.containers.models import Container
from webapp.core import states
from webapp.core.answers import accepted, ask_or_do, attempt, back_to, done, refused
from webapp.core.errors import AppError, Invalid
from webapp.core.routes import page
from webapp.operations.models import Operation

Verb = Callable[[Actor, Container], Operation]
VERBS: dict[str, Verb] = {
    "start": services.container_start,
    "stop": services.container_stop,
    "restart": services.container_restart,
    "pause": services.container_pause,
    "unpause": services.container_unpause,
}
SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
CHANGES_SHOWN = 40
UNITS = {"MiB": 1024**2, "GiB": 1024**3}


def _url(container: Container) -> str:
    return f"/containers/{container.id[:12]}/"


@page(POST=Permission.OPERATE)
def container_verb(request: HttpRequest, ref: str, verb: str) -> HttpResponse:
    """Start, stop, restart, pause or resume one container."""
    container = selectors.container_get(ref)
    try:
        operation = VERBS[verb](request.actor, container)  # type: ignore[attr-defined]
    except AppError as error:
        return refused(request, error)
    text = f"{states.doing(operation.kind)} {container.name}"
    return accepted(request, operation, text, to=back_to(request, _url(container)))


@page(POST=Permission.OPERATE)
def container_bulk(request: HttpRequest) -> HttpResponse:
    """Do one verb to all chosen containers that it fits."""
    verb = request.POST.get("verb", "")
    if verb not in VERBS:
        raise Invalid(f"no verb {verb[:20]!r}")
    chosen = selectors.container_list().filter(pk__in=request.POST.getlist("id")[:500])
    operations, problems = [], []
    for container in chosen:
        if verb not in selectors.actions_of(container):
            continue
        try:
            operations.append(VERBS[verb](request.actor, container))  # type: ignore[attr-defined]
        except AppError as error:
            problems.append(error)
    if not operations and problems:
        return refused(request, problems[0])
    if not operations:
        return refused(
            request,
            Invalid("none of the chosen containers can do that now", hint="their state has changed since"),
        )
    doing = states.doing(operations[0].kind)
    words = (
        f"{doing} {operations[0].target}" if len(operations) == 1 else f"{doing} {len(operations)} containers"
    )
    return accepted(request, operations[-1], words, to="/containers/")


@page(POST=Permission.OPERATE)
def application_verb(request: HttpRequest, name: str, verb: str) -> HttpResponse:
    try:
        operations = services.project_apply(request.actor, name, verb)  # type: ignore[attr-defined]
    except AppError as error:
        return refused(request, error)
    to = f"/applications/{name}/"
    if not operations:
        return done(request, f"{name}: nothing to {verb}", to=to, stay=True)
    return accepted(
        request,
        operations[-1],
        f"{states.doing(operations[-1].kind)} {name}, {len(operations)} containers",
        to=to,
    )


# --- remove ---------------------------------------------------------------------------------------------------


@page(GET=Permission.OPERATE, POST=Permission.OPERATE)
def container_remove(request: HttpRequest, ref: str = "") -> HttpResponse:
    """Ask what will be lost, then remove one container or all chosen ones."""
    ids = (request.POST if request.method == "POST" else request.GET).getlist("id")
    containers = (
        [selectors.container_get(ref)]
        if ref
        else list(selectors.container_list().filter(pk__in=ids[:500]).order_by("name"))
    )
    if not containers:
        raise Invalid("no container was chosen", hint="choose some in the list first")
    alive = [c for c in containers if c.state.is_alive or c.status == "restarting"]
    context = {
        "containers": containers,
        "one": containers[0] if len(containers) == 1 else None,
        "alive": alive,
        "losses": _losses(containers),
        "stays": _stays(containers),
        "anonymous": _anonymous(containers),
        "type_name": containers[0].name if len(containers) == 1 and alive else "",
    }

    def do() -> HttpResponse:
        chosen = {name: bool(request.POST.get(name)) for name in ("volumes", "keep_log")}
        operations = [
            services.container_remove(request.actor, c, force=c in alive, **chosen) for c in containers
        ]  # type: ignore[attr-defined]
        words = containers[0].name if len(containers) == 1 else f"{len(containers)} containers"
        return accepted(request, operations[-1], f"Removing {words}", to="/containers/")

    back = _url(containers[0]) if ref else "/containers/"
    return ask_or_do(request, "containers/remove.html", context, do, back=back)


def _losses(containers: list[Container]) -> list[dict[str, str]]:
    """Return what goes with them, as far as the records and the node know."""
    rows = []
    for container in containers[:12]:
        if container.state.is_alive:
            others = _neighbours(container)
            note = f"{', '.join(others[:3])} may be using it" if others else "what it is doing now is cut off"
            rows.append(
                {"tone": "fail", "text": f"{container.name} is {container.status}", "note": note, "link": ""}
            )
        if len(containers) <= 3:
            rows += _changed_files(container)
    if len(containers) > 12:
        rows.append(
            {"tone": "fail", "text": f"and {len(containers) - 12} more containers", "note": "", "link": ""}
        )
    if not any(row["tone"] == "fail" for row in rows):
        rows.insert(
            0,
            {
                "tone": "fail",
                "text": f"What {_names(containers)} wrote outside of volumes",
                "note": "its log goes too, unless you keep it",
                "link": "",
            },
        )
    return rows


def _names(containers: list[Container]) -> str:
    return containers[0].name if len(containers) == 1 else f"{len(containers)} containers"


def _neighbours(container: Container) -> list[str]:
    names = [
        entry["name"]
        for entry in container.summary.get("networks") or []
        if entry.get("name") not in ("", "bridge", None)
    ]
    if not names:
        return []
    found = Container.objects.filter(memberships__network__in=names, status="running").exclude(
        pk=container.pk
    )
    return list(found.distinct().order_by("name").values_list("name", flat=True)[:4])


def _changed_files(container: Container) -> list[dict[str, str]]:
    answer, _ = attempt(lambda: services.changes(container))
    changes = [change for change in shown.changes_of(answer) if change["kind"] != "C"]
    if not changes:
        return []
    text = f"{len(changes)} files that it added or deleted"
    return [
        {
            "tone": "fail",
            "text": text,
            "note": str(changes[0].get("path", "")),
            "link": f"{_url(container)}changes/",
        }
    ]


def _stays(containers: list[Container]) -> list[str]:
    names = {
        m["source"]
        for c in containers
        for m in c.summary.get("mounts") or []
        if m.get("type") == "volume" and not _is_anonymous(m)
    }
    return sorted(names)


def _anonymous(containers: list[Container]) -> int:
    return sum(
        _is_anonymous(m)
        for c in containers
        for m in c.summary.get("mounts") or []
        if m.get("type") == "volume"
    )


def _is_anonymous(mount: dict[str, Any]) -> bool:
    name = str(mount.get("source", ""))
    return len(name) == 64 and all(letter in "0123456789abcdef" for letter in name)


@page(GET=Permission.OPERATE, POST=Permission.OPERATE)
def container_prune(request: HttpRequest) -> HttpResponse:
    stopped = list(
        selectors.container_list().filter(status__in=("exited", "created", "dead")).order_by("name")[:200]
    )

    def do() -> HttpResponse:
        operation = services.container_prune(request.actor)  # type: ignore[attr-defined]
        return accepted(request, operation, "Removing stopped containers", to="/containers/")

    return ask_or_do(request, "containers/prune.html", {"stopped": stopped}, do, back="/containers/")


# --- other questions ------------------------------------------------------------------------------------------


@page(GET=Permission.OPERATE, POST=Permission.OPERATE)
def container_rename(request: HttpRequest, ref: str) -> HttpResponse:
    container = selectors.container_get(ref)
    wanted = request.POST.get("name", container.name).strip()

    def do() -> HttpResponse:
        operation = services.container_rename(request.actor, container, wanted)  # type: ignore[attr-defined]
        return accepted(request, operation, f"Renaming {container.name} to {wanted}", to=_url(container))

    return ask_or_do(
        request, "containers/rename.html", {"container": container, "name": wanted}, do, back=_url(container)
    )


@page(GET=Permission.OPERATE, POST=Permission.OPERATE)
def container_kill(request: HttpRequest, ref: str) -> HttpResponse:
    container = selectors.container_get(ref)

    def do() -> HttpResponse:
        signal = request.POST.get("signal", "SIGKILL")
        operation = services.container_kill(request.actor, container, signal=signal)  # type: ignore[attr-defined]
        return accepted(request, operation, f"Sending {signal} to {container.name}", to=_url(container))

    return ask_or_do(
        request,
        "containers/kill.html",
        {"container": container, "signals": SIGNALS},
        do,
        back=_url(container),
    )


@page(GET=Permission.OPERATE, POST=Permission.OPERATE)
def container_update(request: HttpRequest, ref: str) -> HttpResponse:
    container = selectors.container_get(ref)
    limits = shown.limits(container)
    unit = (
        "GiB"
        if limits["memory_bytes"] >= UNITS["GiB"] and limits["memory_bytes"] % UNITS["GiB"] == 0
        else "MiB"
    )
    context = {
        "container": container,
        "limits": limits,
        "memory": request.POST.get(
            "memory", f"{limits['memory_bytes'] / UNITS[unit]:g}" if limits["memory_bytes"] else ""
        ),
        "memory_unit": request.POST.get("memory_unit", unit),
        "cpus": request.POST.get("cpus", limits["cpus"]),
        "pids": request.POST.get("pids_limit", str(limits["pids_limit"] or "")),
        "restart": request.POST.get("restart", limits["restart"].get("name", "no")),
        "restarts": shown.RESTARTS,
    }

    def do() -> HttpResponse:
        resources = limits_from(request.POST)
        operation = services.container_update(
            request.actor, container, resources, request.POST.get("restart") or None
        )  # type: ignore[attr-defined]
        return accepted(request, operation, f"Changing the limits of {container.name}", to=_url(container))

    return ask_or_do(request, "containers/update.html", context, do, back=_url(container))


def limits_from(form: Any) -> dict[str, Any]:
    """Return the limits of a form (memory with its unit, cores, processes); empty fields mean none (0)."""
    limits: dict[str, Any] = {
        "memory_bytes": int(
            decimal_of(form.get("memory", ""), "memory")
            * UNITS.get(form.get("memory_unit", "MiB"), UNITS["MiB"])
        ),
        "cpus": decimal_of(form.get("cpus", ""), "cpus"),
    }
    if form.get("pids_limit", "").strip():
        limits["pids_limit"] = int(decimal_of(form["pids_limit"], "pids_limit"))
    return limits


def decimal_of(text: str, field: str) -> float:
    """Return a number as people write it, with point or comma; empty is 0. Raises `Invalid`."""
    text = text.strip().replace(",", ".")
    if not text:
        return 0.0
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < 1e9:
        raise Invalid(f"{text[:20]!r} is no amount", fields={field: ["a number, like 512 or 1.5"]})
    return number


@page(GET=Permission.OPERATE, POST=Permission.OPERATE)
def container_commit(request: HttpRequest, ref: str) -> HttpResponse:
    """Show what changed, then make an image of it."""
    container = selectors.container_get(ref)
    answer, silent = (
        (None, None) if request.method == "POST" else attempt(lambda: services.changes(container))
    )
    changes = shown.changes_of(answer)
    context = {
        "container": container,
        "changes": changes[:CHANGES_SHOWN],
        "total": len(changes),
        "silent": silent,
        "reference": request.POST.get("reference", f"{container.name}:edited"),
        "message": request.POST.get("message", ""),
        "instructions": request.POST.get("changes", ""),
    }

    def do() -> HttpResponse:
        instructions = [row.strip() for row in request.POST.get("changes", "").splitlines() if row.strip()]
        operation = services.container_commit(
            request.actor,  # type: ignore[attr-defined]
            container,
            reference=request.POST.get("reference", "").strip(),
            message=request.POST.get("message", "").strip(),
            changes=instructions,
            pause=bool(request.POST.get("pause")),
        )
        return accepted(request, operation, f"Committing {container.name}", to=_url(container))

    return ask_or_do(request, "containers/commit.html", context, do, back=_url(container))


@page(POST=Permission.OPERATE, upload=True)
def container_upload(request: HttpRequest, ref: str) -> HttpResponse:
    """Copy the files of an archive into a folder of the container."""
    container = selectors.container_get(ref)
    upload = request.FILES.get("archive")
    if upload is None:
        raise Invalid("choose an archive first", fields={"archive": ["missing"]})
    path = request.GET.get("path", "/")
    operation = services.container_files_put(request.actor, container, path, upload.take())  # type: ignore[attr-defined]
    return accepted(
        request,
        operation,
        f"Copying {upload.name} into {container.name}",
        to=f"{_url(container)}files/?path={path}",
    )
