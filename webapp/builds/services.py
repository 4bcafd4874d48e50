"""Asking for builds."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from typing import Any

from django.db import transaction

from webapp.accounts.actor import Actor
from webapp.builds.models import Build
from webapp.containers.policy import judge_build
from webapp.core.errors import Invalid
from webapp.core.ids import new_id
from webapp.images.names import Name, parse_name
from webapp.images.protection import refuse_moves
from webapp.images.services import registries
from webapp.nodes.models import Node
from webapp.nodes.selectors import default_node
from webapp.operations import services as operations
from webapp.operations.models import Operation
from webapp.operations.services import Target
from workers.contracts.builds import BuildCachePrune, BuildRun
from workers.contracts.images import RegistryAccess

MAX_DOCKERFILE_BYTES = 1024 * 1024
MAX_TAGS = 50
_ADDRESS = re.compile(r"https?://[^\s\x00-\x1f]{1,2000}\Z")


@dataclass(frozen=True)
class BuildWish:
    """What to build. `context` is a spooled archive's id (empty: no files), `dockerfile` its text (empty: in the context).

    `remote` is an address to take the files from instead. `secrets` maps an id to its bytes; `more` are further fields of the contract.
    """

    dockerfile: str = ""
    dockerfile_path: str = "Dockerfile"
    context: str = ""
    remote: str = ""
    context_size_bytes: int = 0
    tags: list[str] = field(default_factory=list)
    build_args: dict[str, str | None] = field(default_factory=dict)
    target: str = ""
    platform: str = ""
    no_cache: bool = False
    pull: bool = False
    labels: dict[str, str] = field(default_factory=dict)
    network_mode: str = ""
    secrets: dict[str, bytes] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)


def build_create(
    actor: Actor,
    wish: BuildWish,
    *,
    node: Node | None = None,
    credentials: list[RegistryAccess] | None = None,
) -> tuple[Build, Operation]:
    """Begin a build. Raises `Invalid` for what can never be built, `Denied` when a right is missing."""
    operations.replay(actor)
    tags = check(wish)
    title = ", ".join(tag.familiar() for tag in tags) or "build"
    refuse_moves(actor, "build.run", tags, node or default_node())
    rights = judge_build(actor, title, network_mode=wish.network_mode, dockerfile=wish.dockerfile)
    contract = _contract(wish, tags, rights, registries(actor, None, *(credentials or [])))
    build_id = new_id()
    with transaction.atomic():
        operation = operations.submit(
            actor,
            contract,
            node=node or default_node(),
            target=Target("build", build_id, title),
            body=_body(wish, tags),
            uploads=(wish.context,) if wish.context else (),
            operation_id=build_id,
        )
        build = Build.objects.create(
            operation=operation,
            dockerfile=wish.dockerfile,
            dockerfile_path=wish.dockerfile_path,
            context_size_bytes=wish.context_size_bytes,
            tags=[tag.familiar() for tag in tags],
            build_args=wish.build_args,
            target=wish.target,
            no_cache=wish.no_cache,
            labels=wish.labels,
            created_at=operation.created_at,
        )
    return build, operation


def _contract(wish: BuildWish, tags: list[Name], rights: list[str], access: list[RegistryAccess]) -> BuildRun:
    return BuildRun(
        context=wish.context,
        remote=wish.remote,
        dockerfile=wish.dockerfile,
        dockerfile_path=wish.dockerfile_path,
        tags=[str(tag) for tag in tags],
        build_args=wish.build_args,
        target=wish.target,
        platform=wish.platform,
        no_cache=wish.no_cache,
        pull=wish.pull,
        labels=wish.labels,
        network_mode=wish.network_mode,
        rights=rights,
        secrets={name: base64.b64encode(value).decode() for name, value in wish.secrets.items()},
        registries=access,
        **wish.more,
    )


def check(wish: BuildWish) -> list[Name]:
    """Return the parsed names of a wish that can be built, else raise `Invalid`."""
    if wish.remote and wish.context:
        raise Invalid("a context is uploaded or fetched, not both", fields={"remote": ["there is a context"]})
    if wish.remote and not _ADDRESS.match(wish.remote):
        raise Invalid(
            "not an address of a context",
            fields={"remote": ["not an address"]},
            hint="an https address of a git repository (ending in .git), of an archive or of a Dockerfile",
        )
    if wish.remote and "@" in wish.remote.split("/")[2]:
        raise Invalid(
            "credentials do not belong into an address, which is shown and kept",
            fields={"remote": ["has credentials"]},
            hint="give a token as the secret GIT_AUTH_TOKEN",
        )
    if not wish.dockerfile.strip() and not wish.context and not wish.remote:
        raise Invalid(
            "there is nothing to build",
            fields={"dockerfile": ["missing"]},
            hint="give a Dockerfile, a context with one, or the address of one",
        )
    if len(wish.dockerfile.encode()) > MAX_DOCKERFILE_BYTES:
        raise Invalid("the Dockerfile is longer than 1 MiB", fields={"dockerfile": ["too long"]})
    path = wish.dockerfile_path
    if path.startswith("/") or ".." in path.split("/") or "\0" in path or not path:
        raise Invalid(
            f"the Dockerfile's path {path[:100]!r} leads out of the context",
            fields={"dockerfile_path": ["not inside the context"]},
        )
    if len(wish.tags) > MAX_TAGS:
        raise Invalid(f"at most {MAX_TAGS} names", fields={"tags": ["too many"]})
    return [parse_name(tag) for tag in wish.tags]


def _body(wish: BuildWish, tags: list[Name]) -> dict[str, Any]:
    """Return what the book shows of a build: names of arguments and secrets, not their values."""
    return {
        "tags": [tag.familiar() for tag in tags],
        "dockerfile": wish.dockerfile[:2000],
        "dockerfile_path": wish.dockerfile_path,
        "context_size_bytes": wish.context_size_bytes,
        "remote": wish.remote,
        "build_args": wish.build_args,
        "target": wish.target,
        "no_cache": wish.no_cache,
        "secret_ids": sorted(wish.secrets),
        "network_mode": wish.network_mode,
    }


def build_again(actor: Actor, build: Build) -> tuple[Build, Operation]:
    """Build the same Dockerfile again; only a build without a context can be."""
    remote = str(build.operation.payload.get("remote") or "")
    if not (build.dockerfile or remote) or build.operation.payload.get("context"):
        raise Invalid("the context of this build is gone", hint="upload it again")
    wish = BuildWish(
        dockerfile=build.dockerfile,
        dockerfile_path=build.dockerfile_path,
        remote=remote,
        tags=list(build.tags),
        build_args=dict(build.build_args),
        target=build.target,
        no_cache=build.no_cache,
        labels=dict(build.labels),
    )
    return build_create(actor, wish, node=build.operation.node)


def build_cache_prune(
    actor: Actor,
    *,
    keep_bytes: int = 0,
    older_than_s: float = 0.0,
    all: bool = False,
    node: Node | None = None,
) -> Operation:
    """Forget cached build steps."""
    contract = BuildCachePrune(keep_bytes=keep_bytes, older_than_s=older_than_s, all=all)
    return operations.submit(
        actor, contract, node=node or default_node(), target=Target("build", "", "build cache")
    )
