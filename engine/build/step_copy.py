"""COPY and ADD as steps of a build: what they would copy makes the key, and only a miss copies it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from engine.build import instructions as ins
from engine.build.cache import Meaning, StepLayer
from engine.build.gitref import GitReference
from engine.build.ops import transfer
from engine.build.ops.place import Placement
from engine.build.repositories import Repositories
from engine.build.secrecy import without_credentials
from engine.build.step import Outcome, Step
from engine.build.trees import Tree
from engine.digest import Digest, chain_id
from engine.images.unpack import CommittedLayer, Unpacker
from engine.layers.compression import Compression
from engine.linux.files import DIRECTORY, opened

_SYNCED_EARLY_BYTES = 16 * 1024 * 1024
_PACKED_LATER_BYTES = 256 * 1024 * 1024  # files up to this are stored as they are, and packed by a push


class TransferStep(Step):
    """A COPY or an ADD."""

    def carry_out(self, instruction: ins.Instruction) -> Outcome:
        assert isinstance(instruction, ins.Transfer)
        build = self._build
        with Repositories(
            build.services, build.workspace, build.clock, build.request, self._note
        ) as repositories:
            return self._carry_out(instruction, repositories)

    def _carry_out(self, instruction: ins.Transfer, repositories: Repositories) -> Outcome:
        wanted = self._wanted_repositories(instruction)
        if wanted and len(wanted) == len(instruction.sources):
            commits = ["git", *(repositories.commit(repository) for repository in wanted.values())]
            tree, source_state = self._context_tree, " ".join(commits)
        else:
            tree, source_state = self._source(instruction)
        alias = self._alias(instruction, source_state)
        text = self._transfer_text(instruction)
        if alias and self._uses_cache():
            quick = self._services.cache.find_alias(alias)
            if quick is not None and (found := self._find(quick[0])) is not None and not instruction.link:
                return self._take(quick[0], found, text)
        inline = self._inline(instruction)
        given = transfer.Given(
            tree(), inline, self._state.workdir, self._build.clock.check, self._download,
            lambda source: repositories.tree(wanted[source]), self._missing_hint,
        )  # fmt: skip
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

    def _context_tree(self) -> Tree:
        return self._build.context.tree

    def _wanted_repositories(self, instruction: ins.Transfer) -> dict[str, GitReference]:
        """Return the repositories among the sources of an ADD."""
        if not isinstance(instruction, ins.Add):
            return {}
        named = {source: transfer.repository_of(instruction, source) for source in instruction.sources}
        return {
            source: transfer.asked_repository(instruction, repository)
            for source, repository in named.items()
            if repository is not None
        }

    def _source(self, instruction: ins.Transfer) -> tuple[Callable[[], Tree], str]:
        """Return how to open the tree that the instruction copies from, and the name of its state (empty: the context)."""
        origin = instruction.origin if isinstance(instruction, ins.Copy) else ""
        if isinstance(instruction, ins.Add) and instruction.checksum and not instruction.inline:
            # the address is only one way to its content
            return self._context_tree, instruction.checksum
        if not origin:
            return self._context_tree, ""
        chain, title = self._origin(self._stage.origins[self._position, origin], origin)
        return lambda: self._build.tree_of_chain(chain, title), str(chain)

    def _alias(self, instruction: ins.Transfer, source_state: str) -> str:
        """Return a key that needs no file to be read, for what comes from a stage, an image or a known download."""
        if not source_state or instruction.inline:
            return ""
        parts = [
            self._state.lineage, source_state, instruction.sources, instruction.destination, self._state.workdir,
            instruction.chown, instruction.chmod, instruction.link, instruction.excludes,
            isinstance(instruction, ins.Copy) and instruction.parents, str(self._state.platform),
            [instruction.unpack, instruction.keep_git_dir] if isinstance(instruction, ins.Add) else "",
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


def _same_disk(one: Path, other: Path) -> bool:
    return one.stat().st_dev == other.stat().st_dev


def _hashed(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
