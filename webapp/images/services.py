"""What people do with images."""

from __future__ import annotations

import dataclasses
from typing import Any

from webapp.accounts.actor import Actor
from webapp.core.errors import Invalid
from webapp.images.models import Image
from webapp.images.names import Name, parse_name
from webapp.images.protection import refuse_loss, refuse_moves
from webapp.nodes.models import Node
from webapp.nodes.selectors import default_node
from webapp.operations import services as operations
from webapp.operations.models import Operation
from webapp.operations.services import Target
from webapp.registries.selectors import access_for
from workers.contracts import images as contracts
from workers.contracts.values import to_json

PRUNE_MODES = ("dangling", "unused", "all")
COMPRESSIONS = ("gzip", "zstd")
MAX_CHANGES = 100


def target_of(image: Image) -> Target:
    return Target("image", image.image_id, image.shown_name)


def image_pull(
    actor: Actor,
    reference: str,
    *,
    platform: str = "",
    all_tags: bool = False,
    node: Node | None = None,
    credentials: contracts.RegistryAccess | None = None,
) -> Operation:
    """Fetch an image, or what a repository has under each of its tags (`all_tags`).

    `credentials` (of a Docker client) win over the stored account of that registry.
    """
    name = parse_name(reference)
    if all_tags and (name.digest or name.tag != "latest"):
        raise Invalid("all tags are asked for and one is named", fields={"reference": ["without a tag"]})
    access = registries(actor, [name.domain], credentials)
    contract = contracts.ImagePull(
        reference=str(name), platform=platform, all_tags=all_tags, registries=access
    )
    title = f"{Name(name.domain, name.path, '').familiar()}, all tags" if all_tags else name.familiar()
    return operations.submit(actor, contract, node=node or default_node(), target=Target("image", "", title))


def image_push(
    actor: Actor,
    image: Image,
    *,
    reference: str = "",
    compression: str = "gzip",
    all_platforms: bool = False,
    credentials: contracts.RegistryAccess | None = None,
) -> Operation:
    """Send an image to a registry under `reference` (default: its own name; an image with several names needs one said).

    `all_platforms` sends the whole index that the image was pulled from.
    """
    if compression not in COMPRESSIONS:
        raise Invalid(
            f"no compression {compression[:20]!r}",
            fields={"compression": [f"one of {', '.join(COMPRESSIONS)}"]},
        )
    if all_platforms and compression != "gzip":
        raise Invalid(
            "an index is pushed as it is", fields={"compression": ["not together with all_platforms"]}
        )
    name = parse_name(reference) if reference else _own_name(image)
    contract = contracts.ImagePush(
        image=image.image_id,
        reference=str(name),
        compression=compression,
        all_platforms=all_platforms,
        registries=registries(actor, [name.domain], credentials),
    )
    return operations.submit(
        actor, contract, node=image.node, target=Target("image", image.image_id, name.familiar())
    )


def _own_name(image: Image) -> Name:
    if len(image.names) == 1:
        return parse_name(image.names[0])
    raise Invalid(
        "the image has no name to push to"
        if not image.names
        else "the image has several names: say which one to push",
        fields={"reference": ["missing"]},
        hint="give it a name first" if not image.names else f"one of {', '.join(image.names[:5])}",
    )


def registries(
    actor: Actor, hosts: list[str] | None, *credentials: contracts.RegistryAccess | None
) -> list[contracts.RegistryAccess]:
    """Return the access to registries for a contract; given credentials replace a stored secret, not an admin's TLS settings."""
    access = {item.host: item for item in access_for(actor, hosts)}
    for given in credentials:
        if given is not None:
            stored = access.get(given.host, contracts.RegistryAccess(host=given.host, registered=False))
            access[given.host] = dataclasses.replace(
                given, insecure=stored.insecure, ca_pem=stored.ca_pem, registered=stored.registered
            )
    return list(access.values())


def image_tag(actor: Actor, image: Image, reference: str) -> Operation:
    """Give an image a further name; a name of another image moves over."""
    name = parse_name(reference)
    if name.digest:
        raise Invalid("a name with a digest cannot be given", fields={"reference": ["without a digest"]})
    refuse_moves(actor, "image.tag", [name], image.node, to_image=image.image_id)
    contract = contracts.ImageTag(image=image.image_id, reference=str(name))
    return operations.submit(actor, contract, node=image.node, target=target_of(image))


def image_untag(actor: Actor, image: Image, reference: str) -> Operation:
    """Take one name away; the image stays."""
    name = str(parse_name(reference))
    refuse_loss(actor, "image.untag", image, [name])
    contract = contracts.ImageUntag(reference=name)
    return operations.submit(actor, contract, node=image.node, target=target_of(image))


def image_remove(
    actor: Actor, image: Image, *, ref: str = "", force: bool = False, keep_parents: bool = False
) -> Operation:
    """Remove an image as `docker image rm REF` does: by a name that it shares with others, only that name goes."""
    by_name = ref if ref and not is_id(ref, image) else image.image_id
    wanted = str(parse_name(by_name)) if by_name != image.image_id else by_name
    refuse_loss(actor, "image.remove", image, None if wanted == image.image_id else [wanted])
    contract = contracts.ImageRemove(
        image=wanted,
        force=force,
        keep_parents=keep_parents,
    )
    return operations.submit(actor, contract, node=image.node, target=target_of(image))


def is_id(ref: str, image: Image) -> bool:
    return image.image_id.startswith(ref) or image.image_id.removeprefix("sha256:").startswith(ref)


def image_load(actor: Actor, spool_id: str, *, node: Node | None = None) -> Operation:
    """Load an archive (OCI layout or docker-archive) that lies in the spool."""
    contract = contracts.ImageLoad(source=spool_id)
    return operations.submit(
        actor,
        contract,
        node=node or default_node(),
        target=Target("image", "", "archive"),
        uploads=(spool_id,),
    )


def image_import(
    actor: Actor,
    spool_id: str,
    *,
    reference: str = "",
    message: str = "",
    changes: list[str] | None = None,
    platform: str = "",
    node: Node | None = None,
) -> Operation:
    """Make an image of a root file system tar that lies in the spool."""
    name = parse_name(reference) if reference else None
    if len(changes or []) > MAX_CHANGES:
        raise Invalid(f"at most {MAX_CHANGES} changes", fields={"changes": ["too many"]})
    on = node or default_node()
    refuse_moves(actor, "image.import", [name] if name else [], on)
    contract = contracts.ImageImport(
        source=spool_id,
        reference=str(name) if name else "",
        message=message,
        changes=changes or [],
        platform=platform,
    )
    target = Target("image", "", name.familiar() if name else "import")
    return operations.submit(actor, contract, node=on, target=target, uploads=(spool_id,))


def image_prune(
    actor: Actor,
    mode: str = "dangling",
    *,
    older_than_s: float = 0.0,
    labels: list[str] | None = None,
    without_labels: list[str] | None = None,
    node: Node | None = None,
) -> Operation:
    """Remove images that nobody uses."""
    if mode not in PRUNE_MODES:
        raise Invalid(f"no mode {mode[:20]!r}", fields={"images": [f"one of {', '.join(PRUNE_MODES)}"]})
    contract = contracts.ImagePrune(
        mode=mode, older_than_s=older_than_s, labels=labels or [], without_labels=without_labels or []
    )
    return operations.submit(
        actor, contract, node=node or default_node(), target=Target("image", "", f"{mode} images")
    )


# --- questions to the node --------------------------------------------------------------------------------------


def history(image: Image) -> Any:
    """Return how the image came about: `{"history": [{created, created_by, size_bytes, ...}]}`."""
    return operations.ask(image.node, "image.history", {"ref": image.image_id})


def layers(image: Image) -> Any:
    return operations.ask(image.node, "image.layers", {"ref": image.image_id})


def layer_files(image: Image, index: int) -> Any:
    """Return the files of one layer (0 is the lowest)."""
    return operations.ask(image.node, "image.layer_files", {"ref": image.image_id, "index": index})


def search(
    actor: Actor,
    term: str,
    *,
    limit: int = 25,
    node: Node | None = None,
    credentials: contracts.RegistryAccess | None = None,
) -> Any:
    """Search the registries for a name."""
    if not term.strip():
        raise Invalid("say what to look for", fields={"term": ["missing"]})
    secrets = {"registries": [to_json(item) for item in registries(actor, None, credentials)]}
    return operations.ask(
        node or default_node(), "image.search", {"term": term.strip()[:200], "limit": limit}, secrets=secrets
    )


def remote_tags(actor: Actor, reference: str, *, node: Node | None = None) -> dict[str, Any]:
    """Return the tags that a repository has at its registry: `{"repository", "tags"}`."""
    name = parse_name(reference)
    secrets = {"registries": [to_json(item) for item in access_for(actor, [name.domain])]}
    answer = operations.ask(
        node or default_node(), "registry.tags", {"reference": str(name)}, secrets=secrets
    )
    repository = Name(name.domain, name.path, "").familiar()
    return {"repository": repository, "tags": sorted(answer.get("tags") or [])}
