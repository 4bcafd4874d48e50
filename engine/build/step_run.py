"""RUN as a step of a build: its words, variables, user and mounts make the key, and only a miss executes it."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from engine.build import instructions as ins
from engine.build.log import StepLog
from engine.build.ops.mounts import MountSources
from engine.build.ops.run import RunSpec, command_words, prune_untouched, run
from engine.build.plan import Source
from engine.build.runmounts import MountError, MountType, RunMount, parse_mount
from engine.build.secrecy import looks_secret
from engine.build.state import DEFAULT_SHELL, run_text
from engine.build.step import Outcome, Step
from engine.build.trees import Facts, Tree
from engine.errors import InvalidInput
from engine.images.unpack import CommittedLayer

# where a sandbox has mounts of its own, for which folders of the image may have been touched
_MOUNT_TARGETS = (
    "/etc/hosts", "/etc/resolv.conf", "/etc/hostname", "/dev/pts", "/proc", "/sys", "/run/heredoc",
)  # fmt: skip


class RunStep(Step):
    """A RUN."""

    def carry_out(self, instruction: ins.Instruction) -> Outcome:
        assert isinstance(instruction, ins.Run)
        spec, what = self._spec(instruction)
        arguments = self._state.scope.used_arguments()
        variables = {f"ARG {name}": value for name, value in arguments.items()}
        variables |= {f"ENV {name}": value for name, value in self._state.scope.environment.items()}
        meaning = self._meaning("run", self._state.lineage, what, arguments=variables)
        return self._solve(meaning, run_text(spec.words, arguments), lambda: self._execute(spec))

    def _spec(self, instruction: ins.Run) -> tuple[RunSpec, dict[str, Any]]:
        """Return what to execute, and what of it counts for the cache."""
        state, request = self._state, self._build.request
        words, script = command_words(instruction, state.config.shell or DEFAULT_SHELL)
        mounts = self._mounts(instruction)
        network = instruction.network if instruction.network != "default" else request.network_mode
        insecure = instruction.security == "insecure"
        spec = RunSpec(
            words,
            state.scope.for_command(request.build_args),
            state.workdir,
            state.config.user,
            network,
            mounts,
            script,
            insecure,
            request.extra_hosts,
            request.shm_size_bytes,
            request.limits.step,
        )
        what = {
            "words": list(words),
            "script": script,
            "workdir": state.workdir,
            "user": state.config.user,
            "network": network,
            "insecure": insecure,
            "hosts": list(request.extra_hosts),
            "mounts": [self._mount_meaning(mount) for mount in mounts],
        }
        return spec, what

    def _mounts(self, instruction: ins.Run) -> list[RunMount]:
        expander, scope = self._build.expander, self._state.scope
        found = []
        for text in instruction.mounts:
            try:
                found.append(parse_mount(text, lambda word: expander.word(word, scope.get, instruction)))
            except MountError as error:
                raise expander.error(str(error), instruction, error.token or "--mount", error.hint) from error
        return found

    def _mount_meaning(self, mount: RunMount) -> list[Any]:
        """Return what of a mount counts: of a bind its content, of a secret its name, of a cache its id."""
        common = [
            mount.type.value, mount.origin, mount.source, mount.target, mount.is_read_only, mount.id, mount.env,
            mount.mode, mount.uid, mount.gid, mount.size_bytes,
        ]  # fmt: skip
        if mount.type is not MountType.BIND:
            return common
        if mount.origin:
            return [*common, str(self._origin(self._source_of(mount.origin), mount.origin)[0])]
        tree = self._build.context.tree
        real = tree.resolve(posixpath.normpath("/" + mount.source).lstrip("/"))
        if real is None:
            raise InvalidInput(
                f'"/{mount.source}": not found in {tree.title}', hint=self._missing_hint(mount.source)
            )
        return [*common, Facts([list(tree.facts(real, "", check=self._build.clock.check))]).fingerprint()]

    def _source_of(self, name: str) -> Source:
        return self._stage.origins[self._position, name]

    def _tree_of(self, name: str) -> Tree:
        if not name:
            return self._build.staged_context()
        chain, title = self._origin(self._source_of(name), name)
        return self._build.tree_of_chain(chain, title)

    def _execute(self, spec: RunSpec) -> CommittedLayer | None:
        build, snapshots = self._build, self._services.snapshots
        log = StepLog(build.report, self._id, build.budget, self._secrets())
        sources = MountSources(
            build.workspace,
            self._services.caches,
            build.request.secrets,
            build.request.ssh,
            self._tree_of,
            snapshots,
        )
        with (
            self._slot(),
            build.sandboxes.borrow(networked=spec.network == "default") as sandbox,
            self._snapshot("run") as key,
        ):
            snapshot = snapshots.snapshot(key)
            target = build.workspace.folder("root")
            snapshots.mount(key, target, idmap=sandbox.idmap, volatile=True)
            try:
                run(
                    spec,
                    target,
                    runner=self._services.steps,
                    sandbox=sandbox,
                    sources=sources,
                    log=log,
                    cancel=build.clock,
                    resolv_conf=self._resolv_conf(),
                )
            finally:
                build.unmount(key)
            targets = [*_MOUNT_TARGETS, *(mount.target for mount in spec.mounts)]
            lowers = snapshots.lowers(self._state.chain)
            prune_untouched(snapshot.upper, lowers, targets, sandbox.idmap.host_start)
            return self._commit(key, sandbox.idmap.host_start)

    @contextmanager
    def _slot(self) -> Iterator[None]:
        while not self._build.slots.acquire(timeout=0.2):
            self._build.clock.check()
        try:
            yield
        finally:
            self._build.slots.release()

    def _secrets(self) -> list[bytes]:
        request = self._build.request
        given = [value.encode() for name, value in request.build_args.items() if looks_secret(name)]
        return [*request.secrets.values(), *given]

    def _resolv_conf(self) -> str:
        return "".join(f"nameserver {address}\n" for address in self._services.nameservers())
