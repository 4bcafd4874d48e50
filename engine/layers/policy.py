"""What an archive may contain and do, and what its unpacking says afterwards: the words that all unpackers share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from engine.layers.tar import TarEntry


class Whiteouts(StrEnum):
    """What `.wh.` names mean: overlayfs' own marks, a removal at once, or nothing at all."""

    OVERLAY = "overlay"
    REMOVE = "remove"
    PLAIN = "plain"


@dataclass(frozen=True)
class Policy:
    """What an archive may contain and do.

    `devices`: `refuse` them or `skip` them silently. `fifos` and `xattrs` say whether they are made. `replace` says
    whether a directory may take the place of something else and the other way round. `fresh` promises that the target
    was made for this archive and is nobody else's.
    """

    devices: str = "refuse"
    fifos: bool = False
    xattrs: bool = True
    owners: bool = True
    whiteouts: Whiteouts = Whiteouts.PLAIN
    replace: bool = True
    require_end: bool = True
    fresh: bool = False


LAYER_POLICY = Policy(devices="skip", fifos=True, whiteouts=Whiteouts.OVERLAY, require_end=False, fresh=True)
UPLOAD_POLICY = Policy()
NO_REPLACE_POLICY = Policy(replace=False)
"""As `UPLOAD_POLICY`, but a directory never takes the place of a file nor a file that of a directory (`docker cp`)."""
ROOTFS_POLICY = Policy(devices="skip", fifos=True, require_end=False, fresh=True)
"""For a whole root file system: a layer without whiteouts."""


@dataclass(frozen=True)
class ApplyResult:
    """`size`: bytes of all files; `entries`: how many entries there were."""

    size: int
    entries: int


class EntryReader(Protocol):
    """Where entries come from: a `TarReader`, or something that leaves out, changes or makes up entries."""

    def __iter__(self) -> Iterator[TarEntry]: ...

    def chunks(self) -> Iterator[memoryview]:
        """Give the content of the entry that came last."""
        ...
