"""What people do with images from pages: pull, search, push, load, import, tag, remove."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from webapp.accounts.permissions import Permission
from webapp.containers import selectors as containers
from webapp.core.answers import accepted, ask_or_do, attempt, back_to, number, redirected, refused
from webapp.core.errors import AppError, Invalid
from webapp.core.routes import page
from webapp.images import protection, selectors, services
from webapp.images.models import Image
from webapp.images.pages import url_of
from webapp.operations.models import Operation
from webapp.registries import selectors as registries


def watch(request: HttpRequest, operation: Operation) -> HttpResponse:
    """Go to the page where long work is watched, layer by layer."""
    return redirected(request, f"/operations/{operation.id}/")


@page(GET=Permission.OPERATE, POST=Permission.OPERATE)
def image_pull(request: HttpRequest) -> HttpResponse:
    reference = (request.POST if request.method == "POST" else request.GET).get("reference", "").strip()
    context = {
        "reference": reference,
        "platform": request.POST.get("platform", ""),
        "registries": registries.registry_list(),
    }

    def do() -> HttpResponse:
        platform = request.POST.get("platform", "").strip()
        return watch(request, services.image_pull(request.actor, reference, platform=platform))  # type: ignore[attr-defined]

    return ask_or_do(request, "images/pull.html", context, do, back="/images/")


@page(Permission.OPERATE)
def image_search(request: HttpRequest) -> HttpResponse:
    """Look for a name in the registries and among what is here."""
    term = request.GET.get("q", "").strip()
    answer, problem = attempt(lambda: services.search(request.actor, term)) if term else (None, None)  # type: ignore[attr-defined]
    here = list(selectors.image_list(selectors.ImageFilter(search=term))[:20]) if term else []
    results = [_result(row) for row in (answer or {}).get("results") or []]
    context = {"term": term, "results": results, "here": here, "problem": problem}
    if repository := request.GET.get("tags", "").strip():
        found, why_not = attempt(lambda: services.remote_tags(request.actor, repository))  # type: ignore[attr-defined]
        context |= {"repository": repository, "tags": (found or {}).get("tags", []), "problem": why_not}
    return render(request, "images/search.html", context)


def _result(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": row.get("name", ""),
        "about": row.get("description", ""),
        "stars": row.get("stars", row.get("star_count")),
        "official": row.get("is_official", row.get("official", False)),
        "registry": row.get("registry", ""),
    }


@page(GET=Permission.OPERATE, POST=Permission.OPERATE)
def image_push(request: HttpRequest, ref: str) -> HttpResponse:
    image = selectors.image_get(ref)
    reference = request.POST.get("reference", image.names[0] if image.names else "").strip()
    context = {"image": image, "reference": reference, "registries": registries.registry_list()}

    def do() -> HttpResponse:
        operation = services.image_push(
            request.actor,  # type: ignore[attr-defined]
            image,
            reference=reference,
            compression=request.POST.get("compression") or "gzip",
            all_platforms=bool(request.POST.get("all_platforms")),
        )
        return watch(request, operation)

    return ask_or_do(request, "images/push.html", context, do, back=url_of(image))


@page(GET=Permission.OPERATE, POST=Permission.OPERATE, upload=True)
def image_load(request: HttpRequest) -> HttpResponse:
    def do() -> HttpResponse:
        return watch(request, services.image_load(request.actor, _upload(request)))  # type: ignore[attr-defined]

    return ask_or_do(request, "images/load.html", {}, do, back="/images/")


@page(GET=Permission.OPERATE, POST=Permission.OPERATE, upload=True)
def image_import(request: HttpRequest) -> HttpResponse:
    context = {name: request.POST.get(name, "") for name in ("reference", "message", "changes")}

    def do() -> HttpResponse:
        changes = [row.strip() for row in context["changes"].splitlines() if row.strip()]
        operation = services.image_import(
            request.actor,  # type: ignore[attr-defined]
            _upload(request),
            reference=context["reference"].strip(),
            message=context["message"].strip(),
            changes=changes,
        )
        return watch(request, operation)

    return ask_or_do(request, "images/import.html", context, do, back="/images/")


def _upload(request: HttpRequest) -> str:
    upload = request.FILES.get("archive")
    if upload is None:
        raise Invalid("choose an archive first", fields={"archive": ["missing"]})
    return str(upload.take())


@page(POST=Permission.OPERATE)
def image_tag(request: HttpRequest, ref: str) -> HttpResponse:
    image = selectors.image_get(ref)
    name = request.POST.get("reference", "").strip()
    try:
        operation = services.image_tag(request.actor, image, name)  # type: ignore[attr-defined]
    except AppError as error:
        return refused(request, error)
    return accepted(
        request, operation, f"Naming {image.shown_name} {name}", to=back_to(request, f"{url_of(image)}tags/")
    )


@page(POST=Permission.OPERATE)
def image_untag(request: HttpRequest, ref: str) -> HttpResponse:
    image = selectors.image_get(ref)
    name = request.POST.get("reference", "").strip()
    try:
        operation = services.image_untag(request.actor, image, name)  # type: ignore[attr-defined]
    except AppError as error:
        return refused(request, error)
    return accepted(request, operation, f"Taking the name {name} away", to=f"{url_of(image)}tags/")


@page(GET=Permission.OPERATE, POST=Permission.OPERATE)
def image_remove(request: HttpRequest, ref: str) -> HttpResponse:
    """Say what still uses it and what goes, then remove it."""
    image = selectors.image_get(ref)
    users = containers.containers_of_image(image.image_id)
    alive = [user for user in users if user.state.is_alive]
    context = {
        "image": image,
        "users": users,
        "alive": alive,
        "protected": protection.protected_of(image),
        "own": own_bytes(image),
        "only_here": not image.summary.get("repo_digests"),
    }

    def do() -> HttpResponse:
        force = bool(users) or len(image.names) > 1
        operation = services.image_remove(request.actor, image, force=force)  # type: ignore[attr-defined]
        return accepted(request, operation, f"Removing {image.shown_name}", to="/images/")

    return ask_or_do(request, "images/remove.html", context, do, back=url_of(image))


def own_bytes(image: Image) -> int | None:
    """Return what removing the image frees, as far as the node says."""
    answer, _ = attempt(lambda: services.layers(image))
    if answer is None:
        return None
    rows = answer.get("layers") or []
    return sum(
        int((row.get("layer") or row).get("size") or row.get("size_bytes") or 0)
        for row in rows
        if not row.get("shared_with")
    )


@page(GET=Permission.OPERATE, POST=Permission.OPERATE)
def image_prune(request: HttpRequest) -> HttpResponse:
    used = containers.image_use_counts()
    unused = [image for image in selectors.image_list()[:500] if not used[image.image_id]]
    nameless = [image for image in unused if not image.names]
    context = {"unused": unused, "nameless": nameless}

    def do() -> HttpResponse:
        mode = "unused" if request.POST.get("mode") == "unused" else "dangling"
        age = float(number(request.POST.get("older_than_s", ""), 0))
        operation = services.image_prune(request.actor, mode, older_than_s=age)  # type: ignore[attr-defined]
        return accepted(request, operation, "Removing unused images", to="/images/")

    return ask_or_do(request, "images/prune.html", context, do, back="/images/")
