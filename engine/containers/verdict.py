"""What becomes of a container that has ended: the restart policies and their back-off, as a pure function.

The pause doubles from 100 ms up to a minute and begins anew after a run of at least 10 s, as with Docker.
"""

from __future__ import annotations

from enum import StrEnum

from engine.containers.model import Container

FIRST_DELAY_S, LAST_DELAY_S = 0.1, 60.0
LONG_RUN_S = 10.0


class Verdict(StrEnum):
    STAY = "stay"
    RESTART = "restart"
    REMOVE = "remove"


def after_exit(ended: Container, last_delay_s: float = 0.0) -> tuple[Verdict, float]:
    """Return what to do now, and for a restart the pause before it in seconds.

    Who was stopped by somebody stays down, whatever the policy. `on-failure` gives up after its count.
    """
    if ended.spec.auto_remove:
        return Verdict.REMOVE, 0.0
    if ended.stopped_by_user or not wants_restart(ended):
        return Verdict.STAY, 0.0
    ran_s = ended.finished_at - ended.started_at
    return Verdict.RESTART, next_delay_s(last_delay_s if ran_s < LONG_RUN_S else 0.0)


def wants_restart(ended: Container) -> bool:
    policy = ended.spec.restart
    if policy.name in ("always", "unless-stopped"):
        return True
    if policy.name != "on-failure" or ended.exit_code == 0:
        return False
    return policy.maximum_retry_count == 0 or ended.restart_count < policy.maximum_retry_count


def after_boot(found: Container) -> bool:
    """Tell whether a container that is not running shall be started when the host or the engine comes up.

    `always` means it even for one that somebody stopped; one that was never started is left alone.
    """
    if found.started_at == 0:
        return False
    if found.spec.restart.name == "always":
        return True
    return not found.stopped_by_user and wants_restart(found)


def next_delay_s(last_s: float) -> float:
    return min(max(last_s * 2, FIRST_DELAY_S), LAST_DELAY_S)
