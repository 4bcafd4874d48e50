"""What has to happen by itself while containers run: restarts that are due, health checks, logs that begin a new file,
and containers that fill the disk.

The agent runs `Supervisor.run` in a thread of its own. Exits are noticed by the agent's watch on the exit folder, or here.
All of it is told by the records, so another agent goes on where one has died.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial

from engine.containers import health
from engine.containers.diskguard import REASON, DiskGuard
from engine.containers.effective import healthcheck_of
from engine.containers.exec import Execs, ExecSpec
from engine.containers.lifecycle import Lifecycle
from engine.containers.model import Container, Healthcheck, HealthResult, Status
from engine.containers.parts import Parts
from engine.containers.verdict import next_delay_s
from engine.errors import CommandFailed, ContainerNotFound, EngineError, WrongState
from engine.linux.inotify import CLOSE_WRITE, MOVED_TO, Watch

logger = logging.getLogger(__name__)

TICK_S = 0.1
SCAN_S = 1.0
_CHECKS_AT_ONCE = 16
_RESTARTS_AT_ONCE = 8


class Supervisor:
    """Restarts, health checks and log keeping for one engine. One per node: the agent's lock sees to that."""

    def __init__(self, parts: Parts, lifecycle: Lifecycle, execs: Execs) -> None:
        self._parts = parts
        self._lifecycle = lifecycle
        self._execs = execs
        self._checks = ThreadPoolExecutor(_CHECKS_AT_ONCE, "health")
        self._restarts = ThreadPoolExecutor(_RESTARTS_AT_ONCE, "restart")
        self._busy: set[str] = set()
        self._guard = threading.Lock()
        self._scanned = 0.0
        self._seq = -1
        self._disk = DiskGuard(parts)
        self._living: list[Container] = []
        self._exits = parts.config.run_root / "exits"

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set. An exit is noticed at once, a restart within `TICK_S` of its time."""
        self._exits.mkdir(parents=True, exist_ok=True, mode=0o700)
        with Watch() as watch:
            watch.add(self._exits, MOVED_TO | CLOSE_WRITE)
            while not stop.is_set():
                for change in watch.wait(TICK_S):
                    if change.name and "." not in change.name:
                        self._submit(self._restarts, f"reap {change.name}", partial(self._reap, change.name))
                try:
                    self.tick()
                except (EngineError, OSError):
                    logger.exception("a round of supervision failed; the next one goes on")
        self._checks.shutdown(cancel_futures=True)
        self._restarts.shutdown()

    def tick(self) -> None:
        """Begin everything that is due now."""
        now = time.time()
        for container in self._parts.store.list([Status.RESTARTING]):
            if self._parts.store.private(container.id).restart_at <= now:
                self._submit(self._restarts, f"start {container.id}", partial(self.restart, container.id))
        if time.monotonic() - self._scanned >= SCAN_S:
            self._scanned = time.monotonic()
            self._look()
        if self._disk.watches():
            self._watch_disk()
        for container in self._living:
            check = healthcheck_of(container.config) if container.status is Status.RUNNING else None
            if check is not None and health.next_due(container, health.timing(check), now) <= now:
                self._submit(self._checks, f"check {container.id}", partial(self.check, container.id, check))

    def _look(self) -> None:
        """See which containers live, if anything has happened, and to their logs and the disk."""
        seq = self._parts.db.last_seq()
        if seq != self._seq:
            self._seq, self._living = seq, self._parts.store.list([Status.RUNNING, Status.PAUSED])
        for container in self._living:
            self._parts.log_files(container).refresh()
        self._execs.settle()

    def _watch_disk(self) -> None:
        """Pause who fills the disk."""
        running = [container for container in self._living if container.status is Status.RUNNING]
        for container in self._disk.growing(running):
            logger.warning("container %s fills the disk; pausing it", container.id[:12])
            with suppress(EngineError):
                self._lifecycle.pause(container.id, reason=REASON)

    def restart(self, container_id: str) -> Container | None:
        """Start a container whose restart is due. A start that fails counts as an exit: the pause grows."""
        try:
            with self._parts.locked(container_id) as container:
                private = self._parts.store.private(container_id)
                if container.status is not Status.RESTARTING or private.restart_at > time.time():
                    return None
                try:
                    return self._lifecycle.start_locked(container, restarted=True)
                except (EngineError, OSError) as error:
                    return self._put_off(container, error)
        except ContainerNotFound:
            return None

    def check(self, container_id: str, check: Healthcheck) -> Container | None:
        """Run one health check and record its result."""
        when = health.timing(check)
        began = time.time()
        try:
            spec = ExecSpec(health.command(check), quiet=True)
            done = self._execs.run(container_id, spec, timeout_s=when.timeout_s)
            code, output = (
                done.exit_code,
                (done.stdout + done.stderr)[: health.OUTPUT_BYTES].decode(errors="replace"),
            )
        except TimeoutError:
            code, output = -1, f"the health check did not end within {when.timeout_s:g} s"
        except CommandFailed as error:
            code, output = error.status, error.message
        except (WrongState, ContainerNotFound):
            return None
        result = HealthResult(began, time.time(), code, output)
        try:
            with self._parts.locked(container_id) as container:
                return self._note(container, when, result)
        except ContainerNotFound:
            return None

    def _note(self, container: Container, when: health.Timing, result: HealthResult) -> Container | None:
        if not container.status.is_alive() or container.started_at > result.started_at:
            return None  # it was stopped or started anew meanwhile
        after = health.after_result(container, when, result)
        changed = after.status != container.health.status
        noted = dataclasses.replace(container, health=after)
        noted = self._parts.store.save(noted, f"health_status: {after.status}" if changed else "health")
        self._living = [noted if item.id == noted.id else item for item in self._living]
        return noted

    def _put_off(self, container: Container, error: Exception) -> Container:
        private = self._parts.store.private(container.id)
        delay = next_delay_s(private.restart_delay_s)
        logger.warning("container %s could not be restarted: %s", container.id[:12], error)
        current = self._parts.store.find(container.id) or container
        policy = current.spec.restart
        count = current.restart_count + 1
        if policy.name == "on-failure" and policy.maximum_retry_count and count > policy.maximum_retry_count:
            private = dataclasses.replace(private, restart_at=0.0)
            return self._parts.store.save(
                dataclasses.replace(current, status=Status.EXITED), "die", private=private
            )
        private = dataclasses.replace(private, restart_at=time.time() + delay, restart_delay_s=delay)
        put_off = dataclasses.replace(current, status=Status.RESTARTING, restart_count=count)
        return self._parts.store.save(put_off, private=private)

    def _reap(self, name: str) -> None:
        self._lifecycle.reap(name)

    def _submit(self, pool: ThreadPoolExecutor, key: str, work: Callable[[], object]) -> None:
        """Have `work` done by the pool unless the same is under way."""
        with self._guard:
            if key in self._busy:
                return
            self._busy.add(key)
        pool.submit(self._do, key, work)

    def _do(self, key: str, work: Callable[[], object]) -> None:
        with self._done(key):
            try:
                work()
            except (EngineError, OSError):
                logger.exception("%s failed", key)

    @contextmanager
    def _done(self, key: str) -> Iterator[None]:
        try:
            yield
        finally:
            with self._guard, suppress(KeyError):
                self._busy.remove(key)
