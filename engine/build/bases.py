"""The images that a build stands on or copies from: found on this node or pulled, unpacked once, leased while the build runs."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from engine.build import instructions as ins
from engine.build.services import Services
from engine.build.state import Layer
from engine.content.leases import Lease
from engine.errors import DockerfileError, EngineError, ImageNotFound, InvalidInput
from engine.images.model import Image
from engine.images.platforms import fits
from engine.platform import Platform
from engine.progress import CancelToken, Reporter


@dataclass(frozen=True)
class Base:
    """An image ready to be used: its layers are unpacked."""

    image: Image

    def layers(self) -> list[Layer]:
        return [
            Layer(layer.diff_id, layer.chain, layer.descriptor, layer.size) for layer in self.image.layers
        ]


class Bases:
    """The images of one build. Each is resolved once, however often it is named."""

    def __init__(
        self, services: Services, lease: Lease, report: Reporter, cancel: CancelToken, *, pull_always: bool
    ) -> None:
        self._services = services
        self._lease = lease
        self._report = report
        self._cancel = cancel
        self._pull_always = pull_always
        self._found: dict[tuple[str, Platform], Base] = {}
        self._locks: dict[tuple[str, Platform], threading.Lock] = {}
        self._guard = threading.Lock()

    def get(self, reference: str, platform: Platform) -> Base:
        """Return the image, unpacked. Raises `ImageNotFound`, or what pulling raises."""
        wanted = (reference, platform)
        with self._guard:
            lock = self._locks.setdefault(wanted, threading.Lock())
        with lock:
            if wanted not in self._found:
                image = self._resolve(reference, platform)
                for layer in image.layers:
                    self._lease.add(layer.chain, layer.descriptor.digest)
                self._services.images.unpack(image, self._report, self._cancel)
                self._found[wanted] = Base(image)
        return self._found[wanted]

    def triggers(self, reference: str, platform: Platform, head: ins.From) -> tuple[str, ...]:
        """Return the ONBUILD triggers of a base image; its errors point at the FROM."""
        try:
            return self.get(reference, platform).image.config.config.on_build
        except EngineError as error:
            error.context.setdefault("line", head.line)
            raise

    def _resolve(self, reference: str, platform: Platform) -> Image:
        try:
            image = self._services.images.find(reference)
        except InvalidInput as error:
            raise DockerfileError(f"{reference}: {error.message}", hint=error.hint) from error
        is_fit = image is not None and (fits(image.config.platform, platform) or not image.layers)
        pull = self._services.pull
        if image is not None and is_fit and not (self._pull_always and pull is not None):
            return image
        if pull is None:
            if image is None:
                raise ImageNotFound(
                    f"the image {reference} is not on this node",
                    hint="pull or import it first, or check its name",
                )
            raise ImageNotFound(f"the image {reference} is for {image.config.platform}, {platform} is wanted")
        return pull(reference, platform, self._report, self._cancel)
