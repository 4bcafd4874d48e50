"""`--squash`: all layers that a build put on its base become one, so that what one of them removed is really gone."""

from __future__ import annotations

import os
from dataclasses import replace

from engine.build.solver import Build
from engine.build.state import Layer, StageState
from engine.images.unpack import commit_layer
from engine.layers.compression import open_any
from engine.layers.confined import apply_layer
from engine.layers.policy import Whiteouts
from engine.linux.files import DIRECTORY, opened
from engine.progress import Message


def squash(build: Build, state: StageState) -> None:
    """Merge the layers above the base; the history keeps its lines, the cache its layers."""
    below, above = state.layers[: state.base_layers], state.layers[state.base_layers :]
    if len(above) < 2:
        return
    build.report(Message(f"squashing {len(above)} layers into one"))
    services = build.services
    key = build.workspace.name("squash")
    snapshot = services.snapshots.prepare(key, below[-1].chain if below else None)
    try:
        _replay(build, key, above)
        if any(snapshot.upper.iterdir()):
            committed = commit_layer(
                services.content, services.snapshots, key, lease=build.lease, check=build.clock.check
            )
            below = [*below, Layer(committed.diff_id, committed.chain, committed.blob, committed.size)]
    finally:
        services.snapshots.remove(key)
    is_merged = len(below) > state.base_layers
    state.layers = below
    state.history[state.base_history :] = [
        replace(entry, empty_layer=True) for entry in state.history[state.base_history :]
    ]
    state.note(f"squash of {len(above)} layers", empty=not is_merged)


def _replay(build: Build, key: str, layers: list[Layer]) -> None:
    """Apply the layers again on the mounted base, one after the other; what they remove is removed by the kernel."""
    services = build.services
    target = build.workspace.folder("squash")
    services.snapshots.mount(key, target, volatile=True)
    try:
        with opened(os.open(target, DIRECTORY)) as merged:
            for layer in layers:
                with services.content.open(layer.descriptor().digest) as blob:
                    stream = open_any(blob)
                    apply_layer(stream, merged, whiteouts=Whiteouts.REMOVE, check=build.clock.check)
    finally:
        build.unmount(key)
