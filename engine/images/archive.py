"""Images in archives: save, load, import and export."""

from engine.images.loading import load
from engine.images.rootfs import import_root
from engine.images.saving import export_root, save

__all__ = ["export_root", "import_root", "load", "save"]
