"""Pushing an image with all its platforms: the index that a pull found it in, byte for byte, and each image that it names.

The pull keeps the index among the blobs; the images of the other platforms have to be on this node too (each was pulled for
its own platform), or at the registry already. The index goes last, so that no tag ever leads to something that is missing.
"""

from __future__ import annotations

from collections.abc import Callable

from engine.content.store import ContentStore
from engine.digest import Digest
from engine.errors import EngineError, ImageNotFound, InvalidInput
from engine.images.model import Image
from engine.images.store import ImageStore
from engine.oci import media_types as mt
from engine.oci.descriptor import Descriptor
from engine.oci.manifest import Index, parse_document
from engine.reference import Reference, parse_exact
from engine.registry.client import Document, RegistryClient


def index_of(images: ImageStore, content: ContentStore, image: Image) -> tuple[Index, Document]:
    """Return the index that an image came in; raises `InvalidInput` where it came alone."""
    repositories = {parse_exact(name).name for name in image.repo_digests}
    for digest in _digests_of(images, repositories):
        if not content.has(digest):
            continue
        data = content.read(digest)
        try:
            document = parse_document(data)
        except EngineError:
            continue  # a manifest's digest may name something else than a document of ours
        if isinstance(document, Index) and _names(document, image):
            return document, Document(document.media_type, digest, data)
    raise InvalidInput(
        f"{image.title} was not pulled as one of several platforms",
        hint="push it without asking for all platforms",
    )


def _digests_of(images: ImageStore, repositories: set[str]) -> list[Digest]:
    marks = ",".join("?" * len(repositories))
    rows = images.db.read().execute(
        f"SELECT DISTINCT digest FROM image_digests WHERE repository IN ({marks}) ORDER BY rowid DESC",
        sorted(repositories),
    )
    return [Digest(row["digest"]) for row in rows]


def _names(index: Index, image: Image) -> bool:
    return any(entry.digest == image.manifest.digest for entry in index.manifests)


def push_index(
    index: Index,
    document: Document,
    *,
    images: ImageStore,
    content: ContentStore,
    client: RegistryClient,
    target: Reference,
    push_one: Callable[[Image], object],
) -> bool:
    """Push the images of an index with `push_one`, then the index as `target`; False where it is there already.

    Raises `ImageNotFound` with the platforms that are neither here nor at the registry, before anything is sent.
    """
    head = client.head_manifest(target.path, target.target, push=True)
    if head is not None and head.digest == document.digest:
        return False
    here: list[Image] = []
    missing: list[Descriptor] = []
    for entry in index.manifests:
        image = _whole(images, content, entry)
        if image is not None:
            here.append(image)
        elif client.head_manifest(target.path, entry.digest, push=True) is None:
            missing.append(entry)
    if missing:
        names = ", ".join(dict.fromkeys(str(entry.platform or entry.digest[:19]) for entry in missing))
        raise ImageNotFound(
            f"the index of {target.familiar()} also needs {names}, which this node does not have",
            hint="pull the image for each of these platforms first, or push this platform alone",
            platforms=[str(entry.platform or "") for entry in missing],
        )
    for image in here:
        push_one(image)
    client.put_manifest(target.path, target.target, document)
    return True


def _whole(images: ImageStore, content: ContentStore, entry: Descriptor) -> Image | None:
    """Return the image of an entry if it is here under the same manifest, with all its blobs."""
    image = images.find(entry.digest)
    if image is None or image.manifest.digest != entry.digest or not content.has(entry.digest):
        return None
    own = (layer.descriptor for layer in image.layers)
    return (
        image
        if all(blob.media_type in mt.FOREIGN_LAYERS or content.has(blob.digest) for blob in own)
        else None
    )
