"""Building images from Dockerfiles: the one way in.

    result = builder.build(BuildRequest(context=Path("app.tar.gz"), tags=["app:1"]), report, cancel)

A build reads its context, plans the stages that its target needs, carries them out and adds the image under its tags. Reports tell of it while it
runs: the `Plan`, a `StepProgress` for each step, a `Message` for each line. Whatever happens, nothing of it stays on the
host but its image and its cache; of a build whose process was killed `sweep_dead_builds` removes the rest.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime

from engine.build import instructions as ins
from engine.build.advice import advise
from engine.build.bases import Bases
from engine.build.cache import BuildCache, StepLayer
from engine.build.cachemounts import CacheMounts
from engine.build.clock import BuildClock
from engine.build.context import BuildContext, empty_context, folder_context, unpack_context
from engine.build.expansion import Expander
from engine.build.instruction_parser import parse_dockerfile
from engine.build.log import LogBudget
from engine.build.nameservers import host_nameservers
from engine.build.ops.download import Downloader
from engine.build.plan import BuildPlan, Planner
from engine.build.remote import remote_context
from engine.build.request import BuildRequest, BuildResult
from engine.build.sandboxes import Sandboxes
from engine.build.services import Pull, Services
from engine.build.shell import ShellSyntaxError
from engine.build.solver import Build, Solver
from engine.build.squash import squash
from engine.build.state import HISTORY_COMMENT, StageState
from engine.build.steps import StageSteps
from engine.build.variables import PROXIES, global_scope, platform_arguments
from engine.build.workspace import Workspace, live_builds, sweep_dead_builds
from engine.config import EngineConfig
from engine.content.store import ContentStore
from engine.db import Database
from engine.digest import Digest
from engine.errors import Denied, DockerfileError, EngineError, InvalidInput
from engine.images.platforms import parse_platform
from engine.images.store import ImageStore
from engine.network.manager import NetworkManager
from engine.oci import media_types
from engine.oci.descriptor import Descriptor
from engine.oci.manifest import Manifest
from engine.platform import host_platform
from engine.progress import CancelToken, Message, Plan, Reporter, silent
from engine.reference import Reference, parse_reference
from engine.runtime.step import StepRunner
from engine.snapshots.overlay import OverlaySnapshotter

__all__ = ["Builder"]

logger = logging.getLogger(__name__)


class Builder:
    """Builds images on this node. Safe for any number of builds at once, in any number of processes."""

    def __init__(
        self,
        config: EngineConfig,
        db: Database,
        images: ImageStore,
        content: ContentStore,
        snapshots: OverlaySnapshotter,
        steps: StepRunner,
        network: NetworkManager,
        *,
        pull: Pull | None = None,
        nameservers: Callable[[], Sequence[str]] | None = None,
        reachable: Sequence[str] = (),
    ) -> None:
        """`pull` fetches missing bases, `nameservers` are those of steps (the host's without it), `reachable` are networks
        that ADD may fetch from though they are not public."""
        self.cache = BuildCache(db, snapshots)
        self.cache_mounts = CacheMounts(config.data_root / "build-cache")
        self.cache.keep_layers(images.roots)
        self._services = Services(
            config, db, images, content, snapshots, steps, network, self.cache, self.cache_mounts,
            Downloader(reachable), host_platform(), nameservers or (lambda: host_nameservers(config)), pull,
        )  # fmt: skip

    def build(
        self, request: BuildRequest, report: Reporter = silent, cancel: CancelToken | None = None
    ) -> BuildResult:
        """Build and return the image. Raises `DockerfileError`, `CommandFailed` (its status), `Cancelled`, ..."""
        clock = BuildClock(cancel or CancelToken(), request.limits.time_s)
        tags = _tags(request.tags)
        _check_request(request)
        with (
            Workspace(self._services.config, request.build_id) as workspace,
            self._services.content.leases.hold(f"build-{workspace.id}") as lease,
            Sandboxes(
                self._services.config, self._services.db, self._services.network, workspace
            ) as sandboxes,
            ExitStack() as stack,
        ):
            bases = Bases(self._services, lease, report, clock, pull_always=request.pull)
            prepared = _Preparation(self._services, request, workspace, bases, report, clock)
            prepared.run()
            build = Build(
                request, self._services, workspace, prepared.plan, prepared.context, prepared.expander, prepared.outer,
                bases, sandboxes, lease, clock, report, LogBudget(request.limits.log_bytes),
                _epoch(request.build_args), _series(tags), prepared.extra_cache, stack,
            )  # fmt: skip
            return self._carry_out(build, prepared.dockerfile, tags)

    def sweep(self) -> list[str]:
        """Remove what killed builds left; return their ids."""
        services = self._services
        return sweep_dead_builds(
            services.config, services.db, services.snapshots, services.steps, services.network
        )

    def running(self) -> list[str]:
        """Return the ids of the builds that run on this node, in whatever process."""
        return live_builds(self._services.config)

    def _carry_out(self, build: Build, dockerfile: ins.Dockerfile, tags: list[Reference]) -> BuildResult:
        build.report(Plan(build.plan.to_json()))
        solver: Solver
        steps = StageSteps(build, lambda index: solver.state_of(index))
        solver = Solver(build, steps.run)
        try:
            state = solver.solve()
            if build.request.squash:
                squash(build, state)
            image_id = self._add_image(build, state, tags)
        except BaseException:
            self._remember_what_is_left(build)
            raise
        self._remember(build)
        advice = advise(build, dockerfile, state)
        results = sorted(build.results, key=lambda result: tuple(map(int, result.id.split("."))))
        return BuildResult(
            image_id,
            tuple(tag.familiar() for tag in tags),
            tuple(results),
            tuple(advice),
            build.context.size_bytes,
            time.monotonic() - build.clock.began,
        )

    def _add_image(self, build: Build, state: StageState, tags: list[Reference]) -> str:
        created = build.created or state.created or _now()
        config = state.image_config(build.request.labels, created).to_bytes()
        stored = self._services.content.put(config, sync=False)
        build.lease.add(stored.digest)
        descriptor = Descriptor(media_types.OCI_CONFIG, stored.digest, stored.size)
        manifest = Manifest(descriptor, tuple(layer.descriptor() for layer in state.layers))
        image = self._services.images.add(manifest.to_bytes(), config, names=tags, action="build")
        return image.id

    def _remember_what_is_left(self, build: Build) -> None:
        """Keep what a failed build made, unless that fails too: the first error is the one to be told."""
        try:
            self._remember(build)
        except (EngineError, OSError) as error:
            logger.warning("steps of the failed build %s are not cached: %s", build.workspace.id, error)

    def _remember(self, build: Build) -> None:
        """Record in the cache what was made, and what was used."""
        if build.made:
            steps = [(made.meaning, made.layer()) for made in build.made]
            self._services.content.sync()
            self._services.snapshots.sync()
            self.cache.add(steps, build.aliases)
            self.cache.trim()
        elif build.aliases:  # another way to a step that was there already
            self.cache.add([], build.aliases)
        if build.used:
            self.cache.touch(build.used)


@dataclass
class _Preparation:
    """Everything before the first step: context, Dockerfile, plan."""

    services: Services
    request: BuildRequest
    workspace: Workspace
    bases: Bases
    report: Reporter
    clock: BuildClock

    def run(self) -> None:
        """Read and plan. Raises what is wrong with the request."""
        request = self.request
        context: BuildContext | None = None
        text = request.dockerfile
        if text is None:
            context = self._open_context()
            text = context.dockerfile
        if text is None:
            raise DockerfileError(
                f"failed to read dockerfile: {request.dockerfile_path} is not in the build context",
                file=request.dockerfile_path,
                hint="give the Dockerfile's path, or its text",
            )
        self.dockerfile = parse_dockerfile(text, request.dockerfile_path)
        self.expander = Expander(self.dockerfile.parsed)
        self._plan()
        if context is None:
            wanted = self.plan.needs_context and (request.context is not None or bool(request.remote))
            context = self._open_context() if wanted else empty_context(self.workspace.folder("empty"))
        self.context = context
        self.extra_cache = _extra_cache(request, self.bases, self.services, self.report)
        self._say_what_is_unused()

    def _open_context(self) -> BuildContext:
        path, request = self.request.context, self.request
        if request.remote:
            return remote_context(
                request, self.services, self.workspace, self.clock, lambda text: self.report(Message(text))
            )
        if path is None:
            return empty_context(self.workspace.folder("empty"))
        if path.is_dir():
            return folder_context(path, request.dockerfile_path)
        if not path.is_file():
            raise InvalidInput("the build context is neither a folder nor an archive")
        staging = self.workspace.data / "context"
        return unpack_context(path, staging, request.dockerfile_path, check=self.clock.check)

    def _plan(self) -> None:
        request, host = self.request, self.services.host
        target = parse_platform(request.platform) if request.platform else host
        automatic = platform_arguments(host, target, request.target)
        try:
            self.outer: Mapping[str, str] = global_scope(
                automatic, request.build_args, self.dockerfile.meta_args, self.expander.lexer
            )
        except ShellSyntaxError as error:
            line = self.dockerfile.meta_args[0].line
            raise DockerfileError(error.message, line=line, file=request.dockerfile_path) from error
        planner = Planner(
            self.dockerfile,
            self.expander,
            self.outer,
            host=host,
            target_platform=target,
            triggers=self.bases.triggers,
        )
        self.plan: BuildPlan = planner.plan(request.target)
        _check_rights(self.plan, request)

    def _say_what_is_unused(self) -> None:
        if self.plan.skipped:
            names = ", ".join(self.plan.skipped)
            self.report(Message(f"stages that the target does not need are skipped: {names}"))
        defined = {
            definition.name
            for stage in self.dockerfile.stages
            for instruction in (*self.dockerfile.meta_args, *stage.body)
            if isinstance(instruction, ins.Arg)
            for definition in instruction.definitions
        }
        known = defined | {*PROXIES, "SOURCE_DATE_EPOCH", *self.outer}
        unused = sorted(set(self.request.build_args) - known)
        if unused:
            self.report(Message(f"[Warning] One or more build-args [{' '.join(unused)}] were not consumed"))


def _check_request(request: BuildRequest) -> None:
    if request.remote and request.context is not None:
        raise InvalidInput("a build has a context of its own or the one of an address, not both")
    if request.network_mode not in ("default", "none", "host"):
        raise InvalidInput(f"a build's network is default, none or host, not {request.network_mode[:60]!r}")
    for name, value in request.build_args.items():
        if not name or "=" in name or "\0" in name + value:
            raise InvalidInput(f"not a build argument: {name[:60]!r}")
    if request.network_mode == "host" and not request.may_be_privileged:
        raise Denied("the host's network is not for this build", hint="ask an admin")


def _check_rights(plan: BuildPlan, request: BuildRequest) -> None:
    """Refuse what only some may do, before anything runs (BU-05)."""
    for stage in plan.stages.values():
        for instruction in stage.instructions:
            if isinstance(instruction, ins.Run) and not request.may_be_privileged:
                for wanted, what in (
                    (instruction.network == "host", "--network=host"),
                    (instruction.security == "insecure", "--security=insecure"),
                ):
                    if wanted:
                        raise Denied(
                            f"line {instruction.line}: RUN {what} is not allowed for this build",
                            hint="ask an admin",
                            line=instruction.line,
                        )


def _tags(texts: Sequence[str]) -> list[Reference]:
    tags = [parse_reference(text) for text in texts]
    for tag in tags:
        if tag.digest is not None:
            raise InvalidInput(f"a tag cannot have a digest: {tag.familiar()}")
    return list(dict.fromkeys(tags))


def _series(tags: list[Reference]) -> str:
    return tags[0].name if tags else ""


def _epoch(build_args: Mapping[str, str]) -> str:
    text = build_args.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return ""
    if not text.isdigit() or len(text) > 11:
        raise InvalidInput(f"SOURCE_DATE_EPOCH must be seconds since 1970, not {text[:40]!r}")
    return datetime.fromtimestamp(int(text), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _extra_cache(
    request: BuildRequest, bases: Bases, services: Services, report: Reporter
) -> dict[str, StepLayer]:
    """Return the steps that the images of `cache_from` remember, for this build only."""
    found: dict[str, StepLayer] = {}
    for reference in request.cache_from:
        try:
            image = bases.get(reference, services.host).image
        except EngineError as error:
            report(Message(f"no cache from {reference}: {error.message}"))
            continue
        layers = iter(image.layers)
        for entry in image.config.history:
            comment, _, key = entry.comment.partition(" ")
            layer = None if entry.empty_layer else next(layers, None)
            if comment != HISTORY_COMMENT or not key:
                continue
            if layer is None:
                found[key] = StepLayer(None, "", None, 0, entry.created)
            else:
                chain = Digest(layer.chain)
                found[key] = StepLayer(chain, layer.diff_id, layer.descriptor, layer.size, entry.created)
    return found
