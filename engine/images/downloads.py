"""The downloads of one pull, side by side."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from engine.digest import Digest
from engine.images.fetch import Fetcher
from engine.images.growing import Growing
from engine.oci.descriptor import Descriptor
from engine.progress import CancelToken

AT_ONCE = 3


class Downloads:
    """The downloads of one pull, a few at a time and in order. The first that fails ends all of them."""

    def __init__(self, fetcher: Fetcher, layers: tuple[Descriptor, ...], cancel: CancelToken) -> None:
        self._fetcher = fetcher
        self._layers = {layer.digest: layer for layer in layers}  # an image may have the same layer twice
        self._growing = {digest: Growing(cancel.check) for digest in self._layers}
        self._results: dict[Digest, Future[bool]] = {}
        self._cancel = cancel
        self._executor = ThreadPoolExecutor(AT_ONCE, "fetch")

    def growing(self, layer: Descriptor) -> Growing:
        return self._growing[layer.digest]

    def fetched(self, layer: Descriptor) -> bool:
        """Wait for a download; return False where the blob was here before. Raises what it raised."""
        return self._results[layer.digest].result()

    def __enter__(self) -> Downloads:
        for digest, layer in self._layers.items():
            self._results[digest] = self._executor.submit(self._fetch, layer)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: object
    ) -> None:
        if error is not None:
            self._cancel.cancel()
        self._executor.shutdown(wait=True, cancel_futures=True)
        for growing in self._growing.values():
            growing.close()

    def _fetch(self, layer: Descriptor) -> bool:
        try:
            return self._fetcher.fetch(layer, self._growing[layer.digest])
        except BaseException as error:
            for growing in self._growing.values():
                growing.fail(error)
            raise
