"""COPY and ADD: from what is written to the facts of the files, and from the facts into a new layer.

    job = gather(instruction, sources)      what would be copied, hashed: enough for the cache key
    place(job, placement, ...)              done only when the cache has no such layer

Rules that people rely on: a folder gives its content, not itself; a source that is a link is followed inside its tree, links below it stay
links; the destination is a folder when it ends in a slash, is one already, or several files go there. ADD unpacks a local archive.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from engine.build import instructions as ins
from engine.build.dockerignore import IgnoreMatcher
from engine.build.gitref import GitReference, parse_git_reference
from engine.build.modes import parse_mode
from engine.build.ops.archives import is_archive, unpack_into
from engine.build.ops.place import Check, Ownership, Placement
from engine.build.trees import Fact, Facts, Tree, has_wildcards
from engine.errors import InvalidInput
from engine.runtime.users import resolve_user


@dataclass
class Item:
    """Files that one source became. `single` is the name of a lone file, empty for a folder's content.

    `identity` stands for files that are what they are by the name of it, though their bytes differ (git's own in `.git`).
    """

    tree: Tree
    facts: list[Fact]
    single: str = ""
    unpack: bool = False
    identity: str = ""


@dataclass
class Job:
    """Everything that one instruction copies, and the parts of its meaning that are not in the facts."""

    items: list[Item]
    destination: str
    into_folder: bool
    chown: str
    chmod: str
    parents: bool = False
    complete: bool = True  # nothing of a folder is left out
    notes: list[str] = field(default_factory=list)

    @property
    def size_bytes(self) -> int:
        return sum(fact.size for item in self.items for fact in item.facts)

    def facts(self) -> Facts:
        return Facts([_counting(item) for item in self.items])

    def meaning(self) -> dict[str, Any]:
        """Return what the cache key needs beside the fingerprint of the files."""
        return {
            "destination": self.destination,
            "into_folder": self.into_folder,
            "chown": self.chown,
            "chmod": self.chmod,
            "parents": self.parents,
        }

    def shape(self) -> list[list[Any]]:
        """Return how the files are divided among the sources, which the facts do not say."""
        return [
            [item.single, item.unpack, len(_counting(item)), *([item.identity] if item.identity else [])]
            for item in self.items
        ]


@dataclass(frozen=True)
class Given:
    """What `gather` may take from. `tree` for plain sources, `inline` a folder for here-documents, `download` for URLs
    (returns the file's tree, its name in it, and the name it should get; empty when the address holds none),
    `check_out` for repositories (returns the tree of a source that names one, and the commit)."""

    tree: Tree
    inline: Tree
    workdir: str
    check: Check
    download: Callable[[str, str], tuple[Tree, str, str]] | None = None
    check_out: Callable[[str], tuple[Tree, str]] | None = None
    missing_hint: Callable[[str], str] = lambda path: ""


def gather(instruction: ins.Transfer, given: Given) -> Job:
    """Find and hash what the instruction copies. Raises `InvalidInput` for a source that is not there."""
    excluded = IgnoreMatcher(instruction.excludes) if instruction.excludes else None
    if instruction.chmod:
        parse_mode(instruction.chmod)
    if isinstance(instruction, ins.Add) and instruction.checksum and len(instruction.sources) != 1:
        raise InvalidInput("checksum can't be specified for multiple sources")
    destination, into_folder = _destination(instruction.destination, given.workdir)
    parents = isinstance(instruction, ins.Copy) and instruction.parents
    job = Job(
        [], destination, into_folder, instruction.chown, instruction.chmod, parents, complete=excluded is None
    )
    for source in instruction.sources:
        repository = repository_of(instruction, source)
        if repository is not None and isinstance(instruction, ins.Add):
            job.items.append(_checked_out(instruction, source, repository, given, excluded))
        elif isinstance(instruction, ins.Add) and is_url(source):
            job.items.append(_downloaded(instruction, source, given))
        elif parents:
            job.items += _with_parents(source, given, excluded)
        else:
            found = list(_local(instruction, source, given, excluded))
            if not found:
                job.notes.append(f"no file matches {source}")
            job.items += found
    for file in instruction.inline:
        facts = list(given.inline.facts(file.name, file.name))
        job.items.append(Item(given.inline, facts, single=file.name))
    return job


def repository_of(instruction: ins.Transfer, source: str) -> GitReference | None:
    """Return the repository that a source names, None for anything else; refuse addresses where none is expected (BU-07)."""
    repository = parse_git_reference(source)
    if repository is not None and not repository.local_looking:
        if isinstance(instruction, ins.Copy):
            raise InvalidInput("source can't be a git ref for COPY")
        return repository
    if isinstance(instruction, ins.Copy) and is_url(source):
        raise InvalidInput("source can't be a URL for COPY", hint="use ADD")
    if isinstance(instruction, ins.Add) and instruction.checksum and not is_url(source):
        raise InvalidInput("checksum requires HTTP(S) sources")
    return None


def asked_repository(instruction: ins.Add, repository: GitReference) -> GitReference:
    """Return the repository with what the instruction's flags say of it; they must not contradict the address."""
    if instruction.checksum and repository.checksum not in ("", instruction.checksum):
        raise InvalidInput("the checksum of the instruction and the one in the address differ")
    return replace(
        repository,
        checksum=repository.checksum or instruction.checksum,
        keep_git_dir=repository.keep_git_dir
        if instruction.keep_git_dir is None
        else instruction.keep_git_dir,
    )


def is_url(source: str) -> bool:
    return source.startswith(("http://", "https://"))


def _destination(text: str, workdir: str) -> tuple[str, bool]:
    """Return the absolute path, and whether it is written as that of a folder."""
    into_folder = text.endswith(("/", "/.")) or text in (".", "")
    path = posixpath.normpath(posixpath.join("/", workdir, text))
    return "/" + path.lstrip("/"), into_folder or path == "/"


def _local(
    instruction: ins.Transfer, source: str, given: Given, excluded: IgnoreMatcher | None
) -> Iterator[Item]:
    path = posixpath.normpath("/" + source).lstrip("/")
    wild = has_wildcards(source)
    for name in given.tree.glob(path) if wild else [_unescaped(path)]:
        real = given.tree.resolve(name)
        if real is None:
            if wild:
                continue
            raise InvalidInput(f'"/{name}": not found in {given.tree.title}', hint=given.missing_hint(name))
        yield _item(instruction, given, real, posixpath.basename(name), excluded)


def _item(
    instruction: ins.Transfer, given: Given, real: str, name: str, excluded: IgnoreMatcher | None
) -> Item:
    facts = list(given.tree.facts(real, "", excluded=excluded, check=given.check))
    if facts and facts[0].path == "" and facts[0].kind != "d":
        facts = [facts[0]._replace(path=name)]
        unpack = _wants_unpack(instruction) and facts[0].kind == "f" and is_archive(given.tree, real)
        return Item(given.tree, facts, single=name, unpack=unpack)
    return Item(given.tree, facts)


def _wants_unpack(instruction: ins.Transfer) -> bool:
    return isinstance(instruction, ins.Add) and instruction.unpack is not False


def _downloaded(instruction: ins.Add, url: str, given: Given) -> Item:
    assert given.download is not None
    tree, place, name = given.download(url, instruction.checksum)
    facts = list(tree.facts(place, name or place))
    unpack = instruction.unpack is True and is_archive(tree, place)
    return Item(tree, facts, single=name, unpack=unpack)


def _checked_out(
    instruction: ins.Add,
    source: str,
    repository: GitReference,
    given: Given,
    excluded: IgnoreMatcher | None,
) -> Item:
    assert given.check_out is not None
    tree, commit = given.check_out(source)
    real = tree.resolve(repository.subdir)
    if real is None:
        raise InvalidInput(f'"/{repository.subdir}": not found in {tree.title}')
    facts = list(tree.facts(real, "", excluded=excluded, check=given.check))
    if facts and facts[0].kind != "d":
        raise InvalidInput(f'"/{repository.subdir}" of {tree.title} is not a folder')
    kept = not real and asked_repository(instruction, repository).keep_git_dir
    return Item(tree, facts, identity=commit if kept else "")


def _counting(item: Item) -> list[Fact]:
    """Return the facts that the cache key is made of."""
    if not item.identity:
        return item.facts
    return [fact for fact in item.facts if fact.path != ".git" and not fact.path.startswith(".git/")]


def _with_parents(source: str, given: Given, excluded: IgnoreMatcher | None) -> list[Item]:
    """Keep the folders of a source's path; those before a `/./` in it are left out."""
    before, pivot, pattern = source.partition("/./")
    base, pattern = (before, pattern) if pivot else ("", source)
    root = given.tree.resolve(posixpath.normpath("/" + base).lstrip("/"))
    pattern = posixpath.normpath("/" + pattern).lstrip("/")
    if root is None:
        raise InvalidInput(f'"/{base}": not found in {given.tree.title}', hint=given.missing_hint(base))
    facts: dict[str, Fact] = {}
    for relative in _named(given.tree, root, pattern):
        for parent in reversed(list(_parents(relative))):
            if parent not in facts:
                facts[parent] = given.tree.folder_fact(posixpath.join(root, parent), parent)
        place = posixpath.join(root, relative) if relative else root
        for fact in given.tree.facts(place, relative, check=given.check):
            if excluded is None or not excluded.ignores(fact.path):
                facts[fact.path] = fact
    if not facts and not has_wildcards(source):
        raise InvalidInput(f'"/{pattern}": not found in {given.tree.title}', hint=given.missing_hint(pattern))
    return [Item(given.tree, list(facts.values()))]


def _named(tree: Tree, root: str, pattern: str) -> list[str]:
    if "**" in pattern:
        matcher = IgnoreMatcher([pattern])
        return [
            fact.path
            for fact in tree.facts(root, "", with_root=False)
            if matcher.ignores(fact.path) and not matcher.ignores(posixpath.dirname(fact.path) or ".")
        ]
    path = posixpath.join(root, pattern) if root else pattern
    found = (
        tree.glob(path) if has_wildcards(pattern) else [_unescaped(path)] * tree.is_there(_unescaped(path))
    )
    return [name[len(root) :].lstrip("/") for name in found]


def _parents(path: str) -> Iterator[str]:
    while path := posixpath.dirname(path):
        yield path


def _unescaped(path: str) -> str:
    characters = iter(path)
    return "".join(next(characters, "") if character == "\\" else character for character in characters)


def ownership(job: Job, merged: int) -> Ownership:
    """Return owner and mode for what is placed; names are looked up in the image."""
    owner = None
    if job.chown:
        ids = resolve_user(merged, job.chown)
        gid = ids.gid if ":" in job.chown.rstrip(":") or not job.chown.rstrip(":").isdigit() else ids.uid
        owner = (ids.uid, gid)
    return Ownership(owner, parse_mode(job.chmod) if job.chmod else None)


def place(
    job: Job, placement: Placement, owner: Ownership, *, check: Check, keyword: str, may_move: bool = False
) -> None:
    """Note all files of the job in `placement` and unpack its archives; the overlay must be mounted.

    With `may_move` the tree of a folder is not needed any more and may be emptied.
    """
    several = len(job.items) > 1 and any(_is_file(item) for item in job.items)
    is_folder = job.into_folder or placement.is_folder(job.destination)
    if several and not is_folder and not job.parents:
        raise InvalidInput(
            f"When using {keyword} with more than one source file, the destination must be a directory and end with a /"
        )
    if job.parents or (is_folder and not job.items):
        placement.folder(job.destination)
    for item in job.items:
        if item.unpack:
            with_folder = placement.open_folder(job.destination)
            unpack_into(item.tree, item.facts[0].place, with_folder, owner, check)
        elif _is_file(item):
            _place_file(item, job.destination, is_folder, placement)
        else:
            movable = may_move and len(job.items) == 1 and _goes_as_it_is(job, owner)
            _place_folder(item, job.destination, placement, may_move=movable)


def _goes_as_it_is(job: Job, owner: Ownership) -> bool:
    return job.complete and not job.parents and owner == Ownership()


def _place_folder(item: Item, destination: str, placement: Placement, *, may_move: bool) -> None:
    """Note what is in a folder; whole folders in it that the image has not are taken over in one piece."""
    adopted: set[str] = set()
    for fact in item.facts:
        top, _, below = fact.path.partition("/")
        if below and top in adopted:
            continue
        target = posixpath.join(destination, fact.path)
        if may_move and top and not below and fact.kind == "d" and placement.adopt(item.tree, fact, target):
            adopted.add(top)
        else:
            placement.add(item.tree, fact, target)


def _is_file(item: Item) -> bool:
    """Tell a lone file (named, or from an address without a name) from a folder's content."""
    return bool(item.single) or (len(item.facts) == 1 and item.facts[0].kind != "d" and not item.unpack)


def _place_file(item: Item, destination: str, is_folder: bool, placement: Placement) -> None:
    for fact in item.facts:
        if is_folder and not item.single:
            raise InvalidInput(
                "cannot determine a file name from the address", hint="name the file in the destination"
            )
        placement.add(item.tree, fact, posixpath.join(destination, item.single) if is_folder else destination)


def write_inline(folder: Path, files: tuple[ins.InlineFile, ...]) -> None:
    """Write here-documents into a new folder, as files of mode 0644."""
    for file in files:
        if not file.name or "/" in file.name or file.name in (".", ".."):
            raise InvalidInput(f"a here-document cannot be called {file.name[:100]!r}")
        path = folder / file.name
        path.write_bytes(file.text.encode("utf-8", "surrogateescape"))
        path.chmod(0o644)
