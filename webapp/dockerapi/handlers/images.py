"""Images: list, inspect, pull, push, tag, remove, save, load, import, history, search, prune."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from webapp.containers.selectors import image_use_counts
from webapp.core.errors import Conflict, Invalid, Missing, NodeProblem
from webapp.dockerapi import filters as filtering
from webapp.dockerapi import progress, streaming, work
from webapp.dockerapi.call import Call, in_thread
from webapp.dockerapi.documents import image as documents
from webapp.dockerapi.errors import BadParameter, DockerError
from webapp.dockerapi.registry_auth import RegistryAuth, decode_auth
from webapp.dockerapi.values import parse_duration
from webapp.images import services
from webapp.images.models import Image, ImageName
from webapp.images.names import Name, parse_name
from webapp.images.selectors import brief_records, image_get
from webapp.nodes.selectors import default_node
from webapp.operations import services as operations
from webapp.operations.models import Operation, Status
from webapp.operations.waiting import wait_for
from webapp.realtime.streams import open_stream
from workers.contracts.images import RegistryAccess
from workers.contracts.values import to_json

LIST_FILTERS = "before dangling label reference since until".split()


async def find(call: Call, ref: str) -> Image:
    try:
        return await in_thread(image_get, ref)
    except (Missing, Invalid):
        raise DockerError(f"No such image: {with_tag(ref)}", 404) from None
    except Conflict:
        raise DockerError(f"No such image: {ref}: the id is not unique", 404) from None


def with_tag(ref: str) -> str:
    last = ref.rpartition("/")[2]
    return ref if ":" in last or "@" in last else f"{ref}:latest"


async def listing(call: Call) -> None:
    wanted = filtering.parse_filters(call.text("filters"), LIST_FILTERS)
    if call.text("filter"):
        wanted.setdefault("reference", set()).add(call.text("filter"))

    def gather() -> list[dict[str, Any]]:
        counts = image_use_counts()
        found = []
        for image_id, record in brief_records(Image.objects.order_by("-created_at", "-id")):
            tags = documents.tags(record)
            if _passes(record, tags, wanted):
                shown = [
                    tag
                    for tag in tags
                    if not wanted.get("reference") or _matches_reference(tag, wanted["reference"])
                ]
                document = documents.summary(record, containers=counts[image_id])
                document["RepoTags"] = shown or tags
                if wanted.get("reference"):
                    document["RepoDigests"] = _digests_of(document["RepoDigests"], document["RepoTags"])
                found.append(document)
        return found

    await call.answer(await in_thread(gather))


def _passes(record: dict[str, Any], tags: list[str], wanted: filtering.Filters) -> bool:
    labels = ((record.get("config") or {}).get("config") or {}).get("Labels") or {}
    if "dangling" in wanted and filtering.boolean(wanted, "dangling", False) == bool(tags):
        return False
    if wanted.get("reference") and not any(_matches_reference(tag, wanted["reference"]) for tag in tags):
        return False
    for field, sign in (("since", 1), ("before", -1)):
        for ref in wanted.get(field, ()):
            other = image_get(ref)
            if (documents.created_seconds(record) - documents.created_seconds(other.record)) * sign <= 0:
                return False
    return filtering.matches_labels(wanted, "label", labels)


def _digests_of(digests: list[str], tags: list[str]) -> list[str]:
    """Return the digests in the repositories of these tags: the command makes a row of each other one."""
    repositories = {tag.rpartition(":")[0] for tag in tags}
    return [text for text in digests if text.partition("@")[0] in repositories]


def _matches_reference(tag: str, patterns: set[str]) -> bool:
    """Tell whether a familiar name fits one of the patterns (path.Match on name, or on name and tag)."""
    name = tag.rpartition(":")[0] if ":" in tag.rpartition("/")[2] else tag

    def fits(text: str, pattern: str) -> bool:
        return text.count("/") == pattern.count("/") and PurePosixPath(text).match(pattern)

    return any(fits(tag, pattern) or fits(name, pattern) for pattern in patterns if pattern)


async def inspect(call: Call) -> None:
    await call.answer(documents.inspect((await find(call, call.parameters["name"])).record))


async def history(call: Call) -> None:
    image = await find(call, call.parameters["name"])
    answer = await in_thread(services.history, image)
    await call.answer(documents.history(image.record, answer["history"]))


async def tag(call: Call) -> None:
    image = await find(call, call.parameters["name"])
    repository, version = call.text("repo"), call.text("tag")
    if not repository:
        raise BadParameter("repository name must have at least one component")
    await work.done(
        services.image_tag, call.actor, image, f"{repository}:{version}" if version else repository
    )
    await call.nothing(201)


async def remove(call: Call) -> None:
    ref = call.parameters["name"]
    image = await find(call, ref)
    ended = await work.done(
        services.image_remove,
        call.actor,
        image,
        ref=ref,
        force=call.truth("force"),
        keep_parents=call.truth("noprune"),
    )
    words = {"untagged": "Untagged", "deleted": "Deleted"}
    await call.answer(
        [{words[key]: value for key, value in item.items()} for item in ended.result.get("removed") or []]
    )


async def prune(call: Call) -> None:
    wanted = filtering.parse_filters(call.text("filters"), ("dangling", "until", "label", "label!"))
    mode = "dangling" if filtering.boolean(wanted, "dangling", True) else "unused"
    age = float(max((parse_duration(text) for text in wanted.get("until", ())), default=0))
    labels = sorted(wanted.get("label", ()))
    without = sorted(wanted.get("label!", ()))
    ended = await work.done(
        services.image_prune, call.actor, mode, older_than_s=age, labels=labels, without_labels=without
    )
    words = {"untagged": "Untagged", "deleted": "Deleted"}
    removed = [
        {words[key]: value for key, value in item.items()}
        for item in ended.result.get("removed") or []
        if isinstance(item, dict)
    ]
    await call.answer(
        {"ImagesDeleted": removed or None, "SpaceReclaimed": int(ended.result.get("freed_bytes") or 0)}
    )


# --- registries ---------------------------------------------------------------------------------------------------


def access(auth: RegistryAuth, domain: str) -> RegistryAccess | None:
    """Return what a client offers for a registry; None where it offers nothing."""
    if not auth:
        return None
    return RegistryAccess(
        host=domain, username=auth.username, password=auth.password, identity_token=auth.identity_token
    )


async def create(call: Call) -> None:
    """Pull, or import with `fromSrc`."""
    if call.text("fromSrc"):
        await _import(call)
        return
    reference = call.text("fromImage")
    version = call.text("tag")
    if not reference:
        raise BadParameter("fromImage or fromSrc must be given")
    if version:
        reference += f"@{version}" if version.startswith("sha256:") else f":{version}"
    all_tags = with_tag(reference) != reference  # neither in the name nor beside it: `docker pull --all-tags`
    name = await in_thread(parse_name, with_tag(reference))
    auth = access(decode_auth(call.headers.get("x-registry-auth", "")), name.domain)
    operation = await in_thread(
        services.image_pull,
        call.actor,
        str(name),
        platform=call.text("platform"),
        all_tags=all_tags,
        credentials=auth,
    )
    await _draw_pull(call, operation, name)


async def _draw_pull(call: Call, operation: Operation, name: Any) -> None:
    """Draw the layers as they come. An error before the first of them is an answer of its own, with its status."""
    tag_text = name.tag or name.digest or "latest"
    async for entry in progress.entries(operation):
        if entry["type"] == "layerprogress":
            if not call.started:
                await call.start(200)
                await call.write_json({"status": f"Pulling from {_repository(name)}", "id": tag_text})
            await call.write_json(progress.layer_message(entry))
    await wait_for(operation.id, work.LONGEST_WAIT_S)
    ended = await in_thread(Operation.objects.get, pk=operation.pk)
    if ended.status != Status.SUCCEEDED:
        if not call.started:
            raise NodeProblem.from_json(ended.error)
        await progress.fail(call, ended)
        await call.end()
        return
    if not call.started:
        await call.start(200)
        await call.write_json({"status": f"Pulling from {_repository(name)}", "id": tag_text})
    record = ended.result.get("image") or {}
    digests = [item.rpartition("@")[2] for item in record.get("repo_digests") or []]
    if digests:
        await call.write_json({"status": f"Digest: {digests[0]}"})
    fresh = ended.result.get("changed", True)
    words = "Downloaded newer image for" if fresh else "Image is up to date for"
    await call.write_json({"status": f"Status: {words} {name.familiar()}"})
    await call.end()


def _repository(name: Any) -> str:
    return (
        name.path
        if name.domain == "docker.io"
        else f"{name.domain}/{name.path}"
        if not name.path
        else name.path
    )


async def push(call: Call) -> None:
    """Send one name, or without a tag (`docker push --all-tags`) all that the repository has here."""
    ref, version = call.parameters["name"], call.text("tag")
    name = await in_thread(parse_name, f"{ref}:{version}" if version else with_tag(ref))
    named = bool(version) or with_tag(ref) == ref
    names = [name] if named else await in_thread(_names_of, name)
    auth = access(decode_auth(call.headers.get("x-registry-auth", "")), name.domain)
    for one in names:
        try:
            image = await in_thread(image_get, str(one))
        except Missing:
            raise DockerError(f"An image does not exist locally with the tag: {ref}", 404) from None
        operation = await in_thread(
            services.image_push, call.actor, image, reference=str(one), credentials=auth
        )
        if not call.started:
            await call.start(200)
            await call.write_json({"status": f"The push refers to repository [{name.domain}/{name.path}]"})
        if not await _draw_push(call, operation, one):
            break
    await call.end()


def _names_of(name: Name) -> list[Name]:
    """Return all names that images here have in the repository of `name`; `name` itself where there are none."""
    repository = f"{name.domain}/{name.path}:"
    found = (
        ImageName.objects.filter(name__startswith=repository).order_by("name").values_list("name", flat=True)
    )
    return [parse_name(text) for text in dict.fromkeys(found)] or [name]


async def _draw_push(call: Call, operation: Operation, name: Name) -> bool:
    """Draw the layers of one push as they go; tell whether it ended well."""
    async for entry in progress.entries(operation):
        if entry["type"] == "layerprogress":
            await call.write_json(progress.layer_message(entry, push=True))
    await wait_for(operation.id, work.LONGEST_WAIT_S)
    ended = await in_thread(Operation.objects.get, pk=operation.pk)
    if ended.status != Status.SUCCEEDED:
        await progress.fail(call, ended)
        return False
    digest, size = ended.result.get("digest", ""), int(ended.result.get("size_bytes") or 0)
    await call.write_json({"status": f"{name.tag}: digest: {digest} size: {size}"})
    await call.write_json({"progressDetail": {}, "aux": {"Tag": name.tag, "Digest": digest, "Size": size}})
    return True


async def search(call: Call) -> None:
    """Search the registries; with the client's account at the one that it names."""
    term, limit = call.text("term"), call.number("limit", 25)
    if limit and not 1 <= limit <= 100:
        raise BadParameter("Limit 0 is outside the range of [1, 100]")
    host = term.partition("/")[0]
    names_one = "/" in term and (set(".:") & set(host) or host == "localhost")
    auth = access(decode_auth(call.headers.get("x-registry-auth", "")), host) if names_one else None
    answer = await in_thread(services.search, call.actor, term, limit=limit or 25, credentials=auth)
    results = answer["results"] if isinstance(answer, dict) else answer
    await call.answer(
        [
            {
                "name": item.get("name", ""),
                "description": item.get("description", ""),
                "star_count": int(item.get("stars") or item.get("star_count") or 0),
                "is_official": bool(item.get("official") or item.get("is_official")),
                "is_automated": False,
            }
            for item in results
        ]
    )


async def distribution(call: Call) -> None:
    """Say what a registry has under a name, without fetching it."""
    name = await in_thread(parse_name, with_tag(call.parameters["name"]))
    auth = access(decode_auth(call.headers.get("x-registry-auth", "")), name.domain)

    def ask() -> Any:
        secrets = {
            "registries": [to_json(item) for item in services.registries(call.actor, [name.domain], auth)]
        }
        return operations.ask(default_node(), "image.remote", {"reference": str(name)}, secrets=secrets)

    found = await in_thread(ask)
    await call.answer(
        {
            "Descriptor": {
                "mediaType": found["media_type"],
                "digest": found["digest"],
                "size": found["size_bytes"],
            },
            "Platforms": found.get("platforms") or [],
        }
    )


# --- archives -----------------------------------------------------------------------------------------------------


async def save(call: Call) -> None:
    names = (
        [call.parameters["name"]]
        if "name" in call.parameters
        else [part for text in call.texts("names") for part in text.split(",")]
    )
    if not names:
        raise BadParameter("say which images to save")
    for name in names:
        await find(call, name)
    node = await in_thread(default_node)
    full = [name if name.startswith("sha256:") else str(await in_thread(_saved_name, name)) for name in names]
    async with open_stream(node.name, "image.save", {"images": full}) as stream:
        await call.start(200, "application/x-tar")

        async def copy() -> None:
            async for chunk in stream:
                await call.write(chunk.data)
            await call.end()

        await streaming.until_gone(call, copy())


def _saved_name(ref: str) -> str:
    image = image_get(ref)
    hex_digits = image.image_id.removeprefix("sha256:")
    return image.image_id if hex_digits.startswith(ref) else str(parse_name(ref))


async def load(call: Call) -> None:
    spool_id, _ = await call.spooled()
    ended = await work.finished(await work.handed_over(spool_id, services.image_load, call.actor, spool_id))
    await call.start(200)
    for record in ended.result.get("images") or []:
        tags = documents.tags(record)
        for text in tags or [record["id"]]:
            word = "Loaded image" if tags else "Loaded image ID"
            await call.write_json({"stream": f"{word}: {text}\n"})
    await call.end()


async def _import(call: Call) -> None:
    source = call.text("fromSrc")
    if source != "-":
        raise BadParameter("only an uploaded archive can be imported (fromSrc=-)")
    repository, version = call.text("repo"), call.text("tag")
    spool_id, _ = await call.spooled()
    operation = await work.handed_over(
        spool_id,
        services.image_import,
        call.actor,
        spool_id,
        reference=f"{repository}:{version}" if repository and version else repository,
        message=call.text("message"),
        changes=call.texts("changes"),
        platform=call.text("platform"),
    )
    ended = await work.finished(operation)
    await call.start(200)
    await call.write_json({"status": (ended.result.get("image") or {}).get("id", "")})
    await call.end()
