"""Builds: the list, a new one, the page of one while it runs and after, two compared."""

from __future__ import annotations

import shlex
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.shortcuts import render

from webapp.accounts.permissions import Permission
from webapp.builds import check, selectors, services, shown
from webapp.builds.models import Build
from webapp.builds.services import BuildWish
from webapp.core.answers import part_of, redirected, refused, wants_fragment
from webapp.core.errors import AppError, Invalid
from webapp.core.routes import page
from webapp.images.models import Image
from webapp.operations.folding import log_of

STATES = (("", "All"), ("running,queued", "Running"), ("succeeded", "Built"), ("failed", "Failed"))
MAX_CHECKED = 200_000
START = """\
FROM debian:12
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/*
COPY . /app
WORKDIR /app
CMD ["./start"]
"""


@page(Permission.VIEW)
def build_list(request: HttpRequest) -> HttpResponse:
    status, tag = request.GET.get("status", ""), request.GET.get("q", "").strip()
    listed = part_of(
        request,
        selectors.build_list(status=status, tag=tag).order_by("-created_at", "-operation_id"),
        size=50,
    )
    for build in listed.items:
        build.elapsed = shown.elapsed(build)
    context = {
        "page": listed,
        "tag": tag,
        "filtered": bool(status or tag),
        "choices": [{"key": key, "label": label, "current": key == status} for key, label in STATES],
    }
    return render(request, "builds/list.html", context)


# --- a new one ------------------------------------------------------------------------------------------------


@page(GET=Permission.OPERATE, POST=Permission.OPERATE, upload=True)
def build_new(request: HttpRequest) -> HttpResponse:
    if request.method == "POST":
        return _start(request)
    return render(request, "builds/new.html", {"form": _first(request), "problems": [], "start": START})


def _first(request: HttpRequest) -> dict[str, Any]:
    form: dict[str, Any] = {"dockerfile_path": "Dockerfile"}
    if like := request.GET.get("like", ""):
        build = selectors.build_get(like)
        form |= {
            "dockerfile": build.dockerfile,
            "dockerfile_path": build.dockerfile_path,
            "tags": " ".join(build.tags),
            "build_args": "\n".join(
                f"{name}={value}" for name, value in build.build_args.items() if value != selectors.MASK
            ),
            "target": build.target,
            "remote": build.operation.payload.get("remote", ""),
            "no_cache": build.no_cache,
            "had_context": build.context_size_bytes,
            "like": build,
        }
    elif base := request.GET.get("from", ""):
        form |= {"dockerfile": f"FROM {base}\n"}
    return form


def _start(request: HttpRequest) -> HttpResponse:
    try:
        build, _ = services.build_create(request.actor, wish_of(request))  # type: ignore[attr-defined]
    except AppError as error:
        if error.status in (401, 403) or (
            wants_fragment(request) and "json" in request.headers.get("Accept", "")
        ):
            return refused(request, error)
        form = {name: request.POST.get(name, "") for name in request.POST}
        line = (error.extra.get("context") or {}).get("line")
        problems = (
            [{"line": line, "message": error.detail, "hint": error.hint, "tone": "fail"}] if line else []
        )
        context = {"form": form, "problem": error, "problems": problems, "start": START}
        return render(request, "builds/new.html", context, status=422)
    return redirected(request, f"/builds/{build.pk}/")


def wish_of(request: HttpRequest) -> BuildWish:
    """Return what the form asks for; a Dockerfile that is only the page's example counts as none where a context brings its own."""
    form = request.POST
    context = request.FILES.get("context")
    if context is not None and not context.size:
        context = None
    dockerfile = form.get("dockerfile", "").replace("\r\n", "\n")
    brings_one = context is not None or bool(form.get("remote", "").strip())
    return BuildWish(
        dockerfile="" if brings_one and (not dockerfile.strip() or dockerfile == START) else dockerfile,
        dockerfile_path=form.get("dockerfile_path", "").strip() or "Dockerfile",
        context=context.take() if context is not None else "",
        context_size_bytes=context.size or 0 if context is not None else 0,
        remote=form.get("remote", "").strip(),
        tags=form.get("tags", "").replace(",", " ").split(),
        build_args=_pairs(form.get("build_args", "")),
        target=form.get("target", "").strip(),
        no_cache=bool(form.get("no_cache")),
        pull=bool(form.get("pull")),
        secrets={name: value.encode() for name, value in _pairs(form.get("secrets", "")).items()},
    )


def _pairs(text: str) -> dict[str, str]:
    pairs = {}
    for row in text.splitlines():
        name, equal, value = row.strip().partition("=")
        if not name:
            continue
        if not equal:
            raise Invalid(f"{name[:60]!r} has no value", fields={"build_args": ["one a line, NAME=value"]})
        pairs[name.strip()] = value
    return pairs


@page(POST=Permission.OPERATE)
def build_check(request: HttpRequest) -> HttpResponse:
    """Answer the problems of a Dockerfile that is being typed. Nothing is kept or changed."""
    return JsonResponse({"problems": check.problems_of(request.POST.get("dockerfile", "")[:MAX_CHECKED])})


# --- one build ------------------------------------------------------------------------------------------------


@page(Permission.VIEW)
def build(request: HttpRequest, ref: str) -> HttpResponse:
    build = selectors.build_get(ref)
    folded = log_of(build.operation)
    view = shown.view_of(build, folded)
    advice = shown.advice_of(build)
    context = {
        "build": build,
        "operation": build.operation,
        "title": str(build),
        "view": view,
        "advice": advice,
        "advice_words": shown.advice_words(advice),
        "problems": _problems(build),
        "image": Image.objects.filter(node=build.operation.node, image_id=build.image_id).first()
        if build.image_id
        else None,
        "before": _before(build),
        "can_repeat": build.operation.is_final
        and bool(build.dockerfile or build.operation.payload.get("remote"))
        and not build.operation.payload.get("context"),
        "call_form": _call(build),
        "call_docker": _docker(build),
    }
    return render(request, "builds/build.html", context)


def _problems(build: Build) -> list[dict[str, Any]]:
    error = build.operation.error or {}
    line = (error.get("context") or {}).get("line")
    found = (
        [
            {
                "line": int(line),
                "message": str(error.get("detail", "")),
                "hint": str(error.get("hint", "")),
                "tone": "fail",
            }
        ]
        if line
        else []
    )
    found += [
        {"line": row["line"], "message": row["title"], "hint": row["hint"], "tone": "warn"}
        for row in shown.advice_of(build)
        if row["line"]
    ]
    return found


def _before(build: Build) -> Build | None:
    """Return the build of the same names before this one."""
    earlier = selectors.build_list().filter(created_at__lt=build.created_at, tags=build.tags)
    return earlier.first() if build.tags else None


def _call(build: Build) -> str:
    parts = [f"-F tags={tag}" for tag in build.tags]
    parts += [f"-F dockerfile=@{build.dockerfile_path}"] if build.dockerfile else []
    parts += ["-F context=@context.tar.gz"] if build.context_size_bytes else []
    parts += [f"-F remote={shlex.quote(remote)}"] if (remote := build.operation.payload.get("remote")) else []
    parts += [f"-F target={build.target}"] if build.target else []
    parts += ["-F no_cache=true"] if build.no_cache else []
    return " ".join(parts)


def _docker(build: Build) -> str:
    parts = ["docker build"]
    parts += [f"-t {tag}" for tag in build.tags]
    parts += [f"-f {build.dockerfile_path}"] if build.dockerfile_path != "Dockerfile" else []
    parts += [f"--build-arg {name}" for name in build.build_args]
    parts += [f"--target {build.target}"] if build.target else []
    parts += ["--no-cache"] if build.no_cache else []
    return " ".join([*parts, "."])


@page(POST=Permission.OPERATE)
def build_again(request: HttpRequest, ref: str) -> HttpResponse:
    try:
        again, _ = services.build_again(request.actor, selectors.build_get(ref))  # type: ignore[attr-defined]
    except AppError as error:
        return refused(request, error)
    return redirected(request, f"/builds/{again.pk}/")


@page(Permission.VIEW)
def build_compare(request: HttpRequest, ref: str, other: str) -> HttpResponse:
    new, old = selectors.build_get(ref), selectors.build_get(other)
    if old.created_at > new.created_at:
        return HttpResponseRedirect(f"/builds/{old.pk}/compare/{new.pk}/")
    return render(request, "builds/compare.html", {"old": old, "new": new, **shown.comparison(old, new)})
