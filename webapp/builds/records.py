"""What a node says of a build's steps, kept with the build."""

from __future__ import annotations

from webapp.builds.models import Build
from webapp.images.models import Image
from webapp.operations.models import Operation


def operation_ended(operation: Operation) -> None:
    """Keep steps, advice and image of a build that ended (a failed one has the steps so far)."""
    build = Build.objects.filter(pk=operation.pk).first() if operation.kind == "build.run" else None
    if build is None:
        return
    context = operation.error.get("context") or {}
    result = operation.result or context
    build.steps = result.get("steps") or build.steps
    build.plan = result.get("plan") or result.get("stages") or build.plan
    build.advice = result.get("advice") or []
    build.image_id = result.get("image_id") or ""
    image = (
        Image.objects.filter(node=operation.node, image_id=build.image_id).first() if build.image_id else None
    )
    build.size_bytes = image.size_bytes if image else 0
    build.save(update_fields=["steps", "plan", "advice", "image_id", "size_bytes"])
