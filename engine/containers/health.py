"""Health checks: when the next one is due, and what a result makes of a container's health. Pure functions.

As with Docker: `starting` until the first success or, after the start period, until as many failures in a row as `retries` say.
Failures within the start period do not count; a success ends it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from engine.containers.model import Container, Health, Healthcheck, HealthResult

INTERVAL_S, TIMEOUT_S, START_INTERVAL_S, RETRIES = 30.0, 30.0, 5.0, 3
KEEP_RESULTS = 5
OUTPUT_BYTES = 4096


@dataclass(frozen=True)
class Timing:
    """A health check with its defaults filled in."""

    interval_s: float
    timeout_s: float
    start_period_s: float
    start_interval_s: float
    retries: int


def timing(check: Healthcheck) -> Timing:
    return Timing(
        check.interval_s or INTERVAL_S, check.timeout_s or TIMEOUT_S, check.start_period_s,
        check.start_interval_s or START_INTERVAL_S, check.retries or RETRIES,
    )  # fmt: skip


def command(check: Healthcheck, shell: list[str] | None = None) -> list[str]:
    """Return the command line to run in the container."""
    if check.test[0] == "CMD-SHELL":
        return [*(shell or ["/bin/sh", "-c"]), *check.test[1:]]
    return list(check.test[1:])


def is_starting(container: Container, when: Timing, now: float) -> bool:
    """Tell whether the start period still runs: it ends early with the first success."""
    return container.health.status == "starting" and now - container.started_at < when.start_period_s


def next_due(container: Container, when: Timing, now: float) -> float:
    """Return when to check next, in seconds since the epoch."""
    pause = when.start_interval_s if is_starting(container, when, now) else when.interval_s
    last = container.health.log[-1].finished_at if container.health.log else container.started_at
    return max(last, container.started_at) + pause


def after_result(container: Container, when: Timing, result: HealthResult) -> Health:
    """Return the health after one more result."""
    log = [*container.health.log, result][-KEEP_RESULTS:]
    if result.exit_code == 0:
        return Health("healthy", 0, log)
    if is_starting(container, when, result.started_at):
        return dataclasses.replace(container.health, log=log)
    streak = container.health.failing_streak + 1
    status = "unhealthy" if streak >= when.retries else container.health.status
    return Health(status, streak, log)
