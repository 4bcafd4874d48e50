"""Layers: tar archives to folders and back, and how they are packed."""

from engine.layers.apply import (
    LAYER_POLICY,
    NO_REPLACE_POLICY,
    ROOTFS_POLICY,
    UPLOAD_POLICY,
    ApplyResult,
    Policy,
    Whiteouts,
    apply_layer,
    extract,
)
from engine.layers.compression import Compression, compressor, detect, layer_media_type, open_any
from engine.layers.diff import Change, DiffResult, changes, diff_layer, pack_tree
from engine.layers.limits import LAYER, UPLOAD, Limits
from engine.layers.names import clean_name
from engine.layers.tar import Kind, TarEntry, TarReader, TarWriter
from engine.linux.owners import shift_owners

__all__ = [
    "LAYER",
    "LAYER_POLICY",
    "NO_REPLACE_POLICY",
    "ROOTFS_POLICY",
    "UPLOAD",
    "UPLOAD_POLICY",
    "ApplyResult",
    "Change",
    "Compression",
    "DiffResult",
    "Kind",
    "Limits",
    "Policy",
    "TarEntry",
    "TarReader",
    "TarWriter",
    "Whiteouts",
    "apply_layer",
    "changes",
    "clean_name",
    "compressor",
    "detect",
    "diff_layer",
    "extract",
    "layer_media_type",
    "open_any",
    "pack_tree",
    "shift_owners",
]
