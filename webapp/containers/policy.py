"""May this person have that container? The one place where the canonical spec is judged, whichever door it came by.

The rules themselves are in `workers.contracts.policy`, so the node judges by the same; here is added what only the
records know: what one would share with another container.
"""

from __future__ import annotations

from typing import Any

from webapp.accounts.actor import Actor
from webapp.audit import services as audit
from webapp.containers.models import Container
from webapp.core.errors import Denied
from workers.contracts import policy

_JOINABLE = ("network_mode", "pid_mode", "ipc_mode", "uts_mode")
_SAFE_SYSCTL_PREFIXES = ("net.", "fs.mqueue.", "kernel.shm", "kernel.msg", "kernel.sem")


def rights_for_spec(spec: dict[str, Any]) -> dict[str, str]:
    """Return the rights that a spec needs, each with its reason."""
    needed = policy.rights_of_spec(spec)
    for mount in spec.get("mounts") or []:
        if isinstance(mount, dict) and mount.get("propagation") in ("shared", "rshared", "slave", "rslave"):
            needed.setdefault(policy.HOST_MOUNTS, "shares mounts with the host")
    for name in spec.get("sysctls") or {}:
        if not str(name).startswith(_SAFE_SYSCTL_PREFIXES):
            needed.setdefault(policy.PRIVILEGED, f"sets the kernel parameter {str(name)[:60]}")
    if spec.get("annotations"):
        needed.setdefault(policy.PRIVILEGED, "gives annotations to the runtime")
    for other in _shared_with(spec):
        needed.update(
            {
                right: f"shares with {other.name}, which {reason}"
                for right, reason in _of_container(other).items()
            }
        )
    return needed


def _shared_with(spec: dict[str, Any]) -> list[Container]:
    """Return the containers whose namespaces or mounts a spec asks to share."""
    refs = [
        str(spec.get(name) or "").removeprefix("container:")
        for name in _JOINABLE
        if str(spec.get(name)).startswith("container:")
    ]
    refs += [str(item).partition(":")[0] for item in spec.get("volumes_from") or []]
    return [found for ref in refs if (found := _find(ref)) is not None]


def _find(ref: str) -> Container | None:
    exact = Container.objects.filter(name=ref).first() or Container.objects.filter(pk=ref).first()
    return exact or (Container.objects.filter(pk__startswith=ref).first() if len(ref) >= 4 else None)


def _of_container(container: Container) -> dict[str, str]:
    return policy.rights_of_spec(container.record.get("spec") or {})


def require(
    actor: Actor, needed: dict[str, str], *, action: str, target: str, body: dict[str, Any] | None = None
) -> list[str]:
    """Return the actor's rights (for the contract) if they cover what is `needed`; else write the refusal and raise `Denied`."""
    granted = [right.value for right in actor.rights]
    lacking = policy.missing(needed, granted)
    if not lacking:
        return granted
    right, reason = next(iter(lacking.items()))
    detail = f"the request {reason}; this needs the right {right!r}"
    audit.refuse(actor, action, detail, target=target, target_type=action.partition(".")[0], body=body)
    raise Denied(
        detail,
        recorded=True,
        needs=right,
        rights=sorted(lacking),
        hint="an admin can give you this right, or make the request",
    )


def judge_spec(actor: Actor, spec: dict[str, Any]) -> list[str]:
    return require(
        actor,
        rights_for_spec(spec),
        action="container.create",
        target=spec.get("name") or spec["image"],
        body=spec,
    )


def judge_update(actor: Actor, container: Container, resources: dict[str, Any]) -> list[str]:
    needed = policy.rights_of_resources(resources)
    return require(actor, needed, action="container.update", target=container.name, body=resources)


def judge_exec(actor: Actor, container: Container, *, privileged: bool) -> list[str]:
    """A command in a container has what the container has: entering one that is risky needs the same rights."""
    needed = policy.rights_of_exec(privileged) | {
        right: f"runs in a container that {reason}" for right, reason in _of_container(container).items()
    }
    return require(actor, needed, action="container.exec", target=container.name)


def judge_volume(actor: Actor, name: str, options: dict[str, Any]) -> list[str]:
    return require(actor, policy.rights_of_volume(options), action="volume.create", target=name, body=options)


def judge_backup(actor: Actor, volume: str, directory: str) -> list[str]:
    """A backup into a folder of the host writes there, as a container with that folder could."""
    needed = {policy.HOST_MOUNTS: f"writes into {directory[:200]!r} of the host"}
    return require(actor, needed, action="volume.backup", target=volume, body={"directory": directory})


def judge_build(actor: Actor, target: str, *, network_mode: str, dockerfile: str) -> list[str]:
    return require(actor, policy.rights_of_build(network_mode, dockerfile), action="build.run", target=target)
