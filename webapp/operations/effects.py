"""What the end of an operation means for the records that wait for it."""

from __future__ import annotations

from webapp.builds import records as builds
from webapp.containers import records as containers
from webapp.operations.models import Operation
from webapp.volumes import records as volumes


def operation_ended(operation: Operation) -> None:
    """Let each kind of record take what concerns it; in the transaction that ends the operation."""
    containers.operation_ended(operation)
    builds.operation_ended(operation)
    volumes.operation_ended(operation)
