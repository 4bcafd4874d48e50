"""The same work once more: secrets are taken afresh from where they are kept, ids that were chosen are chosen anew."""

from __future__ import annotations

from typing import Any

from webapp.accounts.actor import Actor
from webapp.core.errors import Conflict
from webapp.operations import services
from webapp.operations.models import Operation
from workers.contracts.base import contract_of, sealed_fields
from workers.contracts.values import from_json


def renew(actor: Actor, old: Operation) -> Operation:
    """Submit the work of `old` again. Creation goes through its own service, which judges who asks now."""
    if old.kind == "container.create":
        return _container(actor, old)
    if old.kind == "build.run":
        from webapp.builds.selectors import build_get
        from webapp.builds.services import build_again

        return build_again(actor, build_get(old.id))[1]
    payload: dict[str, Any] = {**old.payload}
    if "rights" in payload:
        payload["rights"] = _rights(actor, payload["rights"])
    kind = contract_of(old.kind)
    if "registries" in sealed_fields(kind):
        from webapp.registries.selectors import access_for

        payload["registries"] = access_for(actor)
        contract = kind(**payload)
    else:
        contract = from_json(kind, payload)
    target = services.Target(old.target_type, old.target_id, old.target)
    return services.submit(actor, contract, node=old.node, target=target, retry_of=old.id)


def _rights(actor: Actor, asked: list[str]) -> list[str]:
    granted = [right.value for right in actor.rights]
    if set(asked) - set(granted):
        raise Conflict(
            "the first request had rights that you lack",
            code="denied",
            hint="make the request under your own name",
        )
    return granted


def _container(actor: Actor, old: Operation) -> Operation:
    from webapp.containers.services import container_create

    payload = old.payload
    _, operation = container_create(
        actor,
        dict(payload["spec"]),
        node=old.node,
        start=bool(payload.get("start")),
        pull=payload.get("pull") or "missing",
        platform=payload.get("platform") or "",
    )
    Operation.objects.filter(pk=operation.pk).update(retry_of=old.id)
    operation.retry_of = old.id
    return operation
