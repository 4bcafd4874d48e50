"""The instructions of one stage, one after the other: looked up in the cache, else carried out and made into a layer."""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engine.build import instructions as ins
from engine.build.cache import Meaning, StepLayer, next_lineage
from engine.build.log import StepLog
from engine.build.ops import transfer
from engine.build.ops.mounts import MountSources
from engine.build.ops.place import Ownership, Placement
from engine.build.ops.run import RunSpec, command_words, prune_untouched, run
from engine.build.plan import Source, StagePlan, shown_text
from engine.build.request import StepResult
from engine.build.runmounts import MountError, MountType, RunMount, parse_mount
from engine.build.secrecy import looks_secret, without_credentials
from engine.build.solver import Build, Made
from engine.build.state import DEFAULT_SHELL, Layer, MetadataWriter, StageState, joined_workdir, run_text
from engine.build.trees import Facts, Tree
from engine.digest import Digest, chain_id
from engine.errors import Cancelled, EngineError, InvalidInput, NoSpace
from engine.images.unpack import CommittedLayer, Unpacker, commit_layer
from engine.layers.compression import Compression
from engine.linux.files import DIRECTORY, opened
from engine.progress import Message, StepProgress
from engine.runtime.users import resolve_user

_MOUNT_TARGETS = (
    "/etc/hosts",
    "/etc/resolv.conf",
    "/etc/hostname",
    "/dev/pts",
    "/proc",
    "/sys",
    "/run/heredoc",
)
_SYNCED_EARLY_BYTES = 16 * 1024 * 1024
_PACKED_LATER_BYTES = 256 * 1024 * 1024  # files up to this are stored as they are, and packed by a push


@dataclass
class Outcome:
    """How a step ended: `status` `cached` or `done`, the reason of a miss, bytes of its layer."""

    status: str
    reason: str = ""
    size: int = 0
    diff_id: str = ""


class StageSteps:
    """Carries out stages. `state_of` waits for another stage and returns its final state."""

    def __init__(self, build: Build, state_of: Callable[[int], StageState]) -> None:
        self._build = build
        self._state_of = state_of
        self._writer = MetadataWriter(build.expander, build.request.build_args, build.outer)

    def run(self, stage: StagePlan, state: StageState) -> None:
        """Carry out all instructions of `stage` on `state`."""
        for position, instruction in enumerate(stage.instructions, 1):
            _Step(self._build, self._state_of, self._writer, stage, position, instruction, state).run()


class _Step:
    """One instruction of one stage."""

    def __init__(
        self,
        build: Build,
        state_of: Callable[[int], StageState],
        writer: MetadataWriter,
        stage: StagePlan,
        position: int,
        instruction: ins.Instruction,
        state: StageState,
    ) -> None:
        self._build = build
        self._services = build.services
        self._state_of = state_of
        self._writer = writer
        self._stage = stage
        self._position = position
        self._instruction = instruction
        self._state = state
        self._id = stage.step_id(position)
        self._text = shown_text(instruction)
        self._began = time.monotonic()

    def run(self) -> None:
        try:
            self._build.clock.check()
            outcome = self._carry_out()
        except Cancelled:
            self._tell("cancelled")
            raise
        except EngineError as error:
            error.context.setdefault("line", self._instruction.line)
            error.context.setdefault("step", self._id)
            self._tell("failed")
            raise
        self._tell(outcome.status, outcome.reason, outcome.size)
        duration = time.monotonic() - self._began
        result = StepResult(
            self._id, self._stage.title, self._text, self._instruction.line, outcome.status, outcome.reason, duration,
            outcome.size, outcome.diff_id,
        )  # fmt: skip
        with self._build.lock:
            self._build.results.append(result)

    def _tell(self, status: str, reason: str = "", size: int = 0) -> None:
        duration = time.monotonic() - self._began
        self._build.report(
            StepProgress(
                self._id,
                status,
                self._stage.title,
                self._text,
                self._instruction.line,
                reason,
                duration,
                "",
                size,
            )
        )

    def _carry_out(self) -> Outcome:
        instruction = self._build.expander.instruction(self._instruction, self._state.scope.get)
        if self._writer.apply(instruction, self._state):
            return Outcome("done")
        if isinstance(instruction, ins.Workdir):
            return self._workdir(instruction)
        if isinstance(instruction, ins.Run):
            return self._run(instruction)
        if isinstance(instruction, ins.Transfer):
            return self._transfer(instruction)
        raise InvalidInput(f"{instruction.keyword} cannot be carried out")

    # cache -----------------------------------------------------------------------------------------------------

    def _meaning(self, kind: str, lineage: str, what: dict[str, Any], **more: Any) -> Meaning:
        series = self._build.series
        place = f"{series}|{self._stage.title}|{self._position}" if series else ""
        return Meaning(
            kind, self._text, place, lineage, {**what, "platform": str(self._state.platform)}, **more
        )

    def _uses_cache(self) -> bool:
        request = self._build.request
        left_out = {name.lower() for name in request.no_cache_filter}
        return not request.no_cache and self._stage.title.lower() not in left_out

    def _find(self, key: str) -> StepLayer | None:
        found = self._services.cache.find(key) or self._build.extra_cache.get(key)
        if found is None:
            return None
        if found.chain is not None:
            self._build.lease.add(found.chain, *([found.layer.digest] if found.layer else []))
            if not self._services.snapshots.exists(found.chain):
                return None
        return found

    def _solve(self, meaning: Meaning, text: str, execute: Callable[[], CommittedLayer | None]) -> Outcome:
        """Take the step from the cache, or execute it and remember what it made."""
        key = meaning.key()
        reason = "the cache is not used, as asked for"
        if self._uses_cache():
            found = self._find(key)
            if found is not None:
                return self._take(key, found, text)
            reason = self._services.cache.reason(meaning)
        self._tell("running", reason)
        committed = execute()
        created = self._build.created or _now()
        with self._build.lock:
            self._build.made.append(Made(meaning, committed, created))
        if committed is None:
            self._advance(key, None, text, created)
            return Outcome("done", reason)
        layer = Layer(committed.diff_id, committed.chain, committed.blob, committed.size)
        self._advance(key, layer, text, created)
        self._check_disk()
        return Outcome("done", reason, committed.size, committed.diff_id)

    def _take(self, key: str, found: StepLayer, text: str) -> Outcome:
        with self._build.lock:
            self._build.used.add(key)
        layer = None
        if found.chain is not None and found.layer is not None:
            layer = Layer(Digest(found.diff_id), found.chain, found.layer, found.size)
        self._advance(key, layer, text, self._build.created or found.created)
        return Outcome("cached", "", found.size, found.diff_id)

    def _advance(self, key: str, layer: Layer | None, text: str, created: str) -> None:
        state = self._state
        if layer is not None:
            state.layers.append(layer)
        state.note(text, empty=layer is None, created=created, key=key)
        outcome = StepLayer(layer.chain if layer else None, "", None, 0, "")
        state.lineage = next_lineage(state.lineage, key, outcome)

    def _check_disk(self) -> None:
        limit = self._build.request.limits.disk_bytes
        if not limit:
            return
        with self._build.lock:
            used = sum(made.committed.size for made in self._build.made if made.committed)
        if used + self._build.context.size_bytes > limit:
            raise NoSpace(f"the build takes more than the {limit} bytes of disk that it may use")

    # layers ----------------------------------------------------------------------------------------------------

    @contextmanager
    def _snapshot(self, what: str) -> Iterator[str]:
        """Have a new active snapshot on the stage's file system; it is removed unless it was committed."""
        snapshots = self._services.snapshots
        key = self._build.workspace.name(what)
        snapshots.prepare(key, self._state.chain)
        try:
            yield key
        finally:
            snapshots.remove(key)

    def _commit(
        self, key: str, idmap_start: int = 0, kind: Compression = Compression.GZIP
    ) -> CommittedLayer | None:
        """Make the snapshot a layer; None if it changed nothing."""
        upper = self._services.snapshots.snapshot(key).upper
        with os.scandir(upper) as entries:
            if next(entries, None) is None:
                return None
        return commit_layer(
            self._services.content,
            self._services.snapshots,
            key,
            idmap_start=idmap_start,
            kind=kind,
            lease=self._build.lease,
            check=self._build.clock.check,
        )

    @contextmanager
    def _mounted(self, key: str) -> Iterator[int]:
        """Mount a snapshot as root of the host sees it; give an open descriptor of it."""
        target = self._build.workspace.folder("merged")
        self._services.snapshots.mount(key, target, volatile=True)
        try:
            with opened(os.open(target, DIRECTORY)) as merged:
                yield merged
        finally:
            self._build.unmount(key)
            with suppress(OSError):
                target.rmdir()

    # WORKDIR ---------------------------------------------------------------------------------------------------

    def _workdir(self, instruction: ins.Workdir) -> Outcome:
        path = joined_workdir(self._state.config.working_dir, instruction.path)
        self._state.set_workdir(path)
        user = self._state.config.user
        meaning = self._meaning("workdir", self._state.lineage, {"path": path, "user": user})
        return self._solve(meaning, f"WORKDIR {path}", lambda: self._make_folder(path, user))

    def _make_folder(self, path: str, user: str) -> CommittedLayer | None:
        with self._snapshot("workdir") as key:
            upper = self._services.snapshots.snapshot(key).upper
            with self._mounted(key) as merged:
                ids = resolve_user(merged, user)
                placement = Placement(merged, Ownership((ids.uid, ids.gid)), self._build.clock.check)
                placement.folder(path)
            placement.write(upper)
            return self._commit(key)

    # COPY and ADD ----------------------------------------------------------------------------------------------

    def _transfer(self, instruction: ins.Transfer) -> Outcome:
        tree, source_state = self._source(instruction)
        alias = self._alias(instruction, source_state)
        text = self._transfer_text(instruction)
        if alias and self._uses_cache():
            quick = self._services.cache.find_alias(alias)
            if quick is not None and (found := self._find(quick[0])) is not None and not instruction.link:
                return self._take(quick[0], found, text)
        inline = self._inline(instruction)
        given = transfer.Given(
            tree(), inline, self._state.workdir, self._build.clock.check, self._download, self._missing_hint
        )
        job = transfer.gather(instruction, given)
        for note in job.notes:
            self._note(note)
        facts = job.facts()
        lineage = "link" if instruction.link else self._state.lineage
        meaning = self._meaning(
            "copy",
            lineage,
            {**job.meaning(), "link": instruction.link},
            fingerprint=_hashed([facts.fingerprint(), job.shape()]),
            files=facts.short_hashes(),
        )
        if alias:
            with self._build.lock:
                self._build.aliases[alias] = meaning.key()
        if instruction.link:
            return self._linked(meaning, text, job)
        return self._solve(meaning, text, lambda: self._place(job, instruction.keyword, linked=False))

    def _source(self, instruction: ins.Transfer) -> tuple[Callable[[], Tree], str]:
        """Return how to open the tree that the instruction copies from, and the name of its state (empty: the context)."""
        origin = instruction.origin if isinstance(instruction, ins.Copy) else ""
        if isinstance(instruction, ins.Add) and instruction.checksum and not instruction.inline:
            return (
                lambda: self._build.context.tree,
                instruction.checksum,
            )  # the address is only one way to its content
        if not origin:
            return lambda: self._build.context.tree, ""
        chain, title = self._origin(self._stage.origins[self._position, origin], origin)
        return lambda: self._build.tree_of_chain(chain, title), str(chain)

    def _origin(self, source: Source, name: str) -> tuple[Digest | None, str]:
        if source.stage is not None:
            return self._state_of(source.stage).chain, f'stage "{name}"'
        if source.image.lower() == "scratch":
            return None, "scratch"
        return self._build.bases.get(source.image, self._state.platform).image.chain, f"image {name}"

    def _alias(self, instruction: ins.Transfer, source_state: str) -> str:
        """Return a key that needs no file to be read, for what comes from a stage, an image or a known download."""
        if not source_state or instruction.inline:
            return ""
        parts = [
            self._state.lineage, source_state, instruction.sources, instruction.destination, self._state.workdir,
            instruction.chown, instruction.chmod, instruction.link, instruction.excludes,
            isinstance(instruction, ins.Copy) and instruction.parents, str(self._state.platform),
            instruction.unpack if isinstance(instruction, ins.Add) else "",
        ]  # fmt: skip
        return _hashed(parts)

    def _inline(self, instruction: ins.Transfer) -> Tree:
        if not instruction.inline:
            return Tree(self._build.workspace.run, "here-documents")
        folder = self._build.workspace.folder("inline", on_disk=True)
        transfer.write_inline(folder, instruction.inline)
        return Tree(folder, "here-documents", keeps_owners=False, fixed=True, linkable=True)

    def _download(self, url: str, checksum: str) -> tuple[Tree, str, str]:
        folder = self._build.workspace.folder("download", on_disk=True)
        self._note(f"fetching {without_credentials(url)}")
        fetched = self._services.downloader.fetch(
            url, folder / "file", checksum=checksum, check=self._build.clock.check
        )
        return (
            Tree(folder, "the download", keeps_owners=False, fixed=True, linkable=True),
            "file",
            fetched.name,
        )

    def _missing_hint(self, path: str) -> str:
        ignore = self._build.context.ignore
        from_context = not (isinstance(self._instruction, ins.Copy) and self._instruction.origin)
        if from_context and ignore is not None and ignore.ignores(path):
            return "it is left out by .dockerignore"
        return "check the path: it is relative to the context" if from_context else ""

    def _transfer_text(self, instruction: ins.Transfer) -> str:
        flags = [f"--chown={instruction.chown}"] if instruction.chown else []
        flags += [f"--chmod={instruction.chmod}"] if instruction.chmod else []
        sources = [without_credentials(source) for source in instruction.sources]
        documents = [f"<<{file.name}" for file in instruction.inline]
        return " ".join([instruction.keyword, *flags, *sources, *documents, instruction.destination])

    def _place(self, job: transfer.Job, keyword: str, *, linked: bool) -> CommittedLayer | None:
        check = self._build.clock.check
        with self._snapshot("copy") as key:
            upper = self._services.snapshots.snapshot(key).upper
            if linked:
                with opened(
                    os.open(self._build.tree_of_chain(self._state.chain, "").root, DIRECTORY)
                ) as below:
                    owner = transfer.ownership(job, below)
                with opened(os.open(upper, DIRECTORY)) as merged:
                    placement = Placement(merged, owner, check)
                    transfer.place(job, placement, owner, check=check, keyword=keyword)
            else:
                with self._mounted(key) as merged:
                    owner = transfer.ownership(job, merged)
                    placement = Placement(merged, owner, check)
                    may_move = self._is_last_use(job) and _same_disk(upper, self._build.context.tree.root)
                    transfer.place(job, placement, owner, check=check, keyword=keyword, may_move=may_move)
            placement.write(upper)
            if job.size_bytes > _SYNCED_EARLY_BYTES:
                self._build.sync_early(upper)
            # a command's layer is packed while the next one runs; after a copy somebody waits
            quick = job.size_bytes <= _PACKED_LATER_BYTES
            return self._commit(key, kind=Compression.NONE if quick else Compression.GZIP)

    def _is_last_use(self, job: transfer.Job) -> bool:
        """Tell whether a job empties the unpacked context that nothing else of this build needs."""
        tree = self._build.context.tree
        return (
            tree.linkable
            and self._build.plan.context_uses == 1
            and all(item.tree is tree for item in job.items)
        )

    def _linked(self, meaning: Meaning, text: str, job: transfer.Job) -> Outcome:
        """Take a layer that does not depend on what is below it, also from a build on another base."""
        key = meaning.key()
        found = self._services.cache.find(key) if self._uses_cache() else None
        if found is None or found.chain is None or found.layer is None:
            return self._solve(
                meaning, text, lambda: self._place(job, self._instruction.keyword, linked=True)
            )
        diff_id = Digest(found.diff_id)
        chain = chain_id(self._state.chain, diff_id)
        self._build.lease.add(chain, found.layer.digest)
        if not self._services.snapshots.exists(chain):
            unpacker = Unpacker(self._services.content, self._services.snapshots)
            with self._services.content.open(found.layer.digest) as blob:
                unpacker.unpack_layer(
                    blob, parent=self._state.chain, diff_id=diff_id, check=self._build.clock.check
                )
        moved = StepLayer(chain, found.diff_id, found.layer, found.size, found.created)
        return self._take(key, moved, text)

    # RUN -------------------------------------------------------------------------------------------------------

    def _run(self, instruction: ins.Run) -> Outcome:
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
        arguments = state.scope.used_arguments()
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
        variables = {f"ARG {name}": value for name, value in arguments.items()}
        variables |= {f"ENV {name}": value for name, value in state.scope.environment.items()}
        meaning = self._meaning("run", state.lineage, what, arguments=variables)
        return self._solve(meaning, run_text(words, arguments), lambda: self._execute(spec))

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

    def _note(self, text: str) -> None:
        self._build.report(Message(text, "note", self._id))


def _same_disk(one: Path, other: Path) -> bool:
    return one.stat().st_dev == other.stat().st_dev


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _hashed(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
