"""Repositories that ADD (and a build's remote context) takes: git runs as a stranger, in a place where it can reach and read nothing else.

    with fetcher.session(reference, folder) as session:
        commit = session.commit()          what the reference means now
        tree = session.check_out(keep_git_dir=False)

git is a large program that reads what strangers wrote, so it gets ids of its own that own nothing, no privileges, an environment of its own, no
configuration, no hooks, and a network namespace whose only way out is the `Relay`, which judges each address (BU-06). References and folders
are checked before git sees them and stand behind `--` (BU-07). Credentials go through a file, not through arguments that others can list.

Decisions: `http` and `https` only (ssh would need keys on the node, `git://` says nothing of who answers); an `https` repository leads to
`https` alone. Submodules are fetched, as BuildKit does it, over the same relay, unless the address says `?submodules=0`. Filters (LFS) do not run.
Sources: git(1), git-config(1), gitcredentials(7), git-check-ref-format(1).
"""

from __future__ import annotations

import os
import posixpath
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from engine.build.gitref import GitReference
from engine.build.ops.download import Downloader
from engine.build.ops.gitrelay import Relay
from engine.build.ops.gitrun import PLACE, Check, Git, GitFailed, shown
from engine.errors import InvalidInput, NotFound, Unsupported
from engine.linux import links
from engine.linux.files import remove_tree
from engine.linux.netlink import NETLINK_ROUTE, Netlink, in_netns
from engine.linux.userns import IdMap

MAX_BYTES = 4 * 1024**3  # that come over the network, and that lie in the folder
TOKEN_SECRET = "GIT_AUTH_TOKEN"  # as BuildKit calls it; `GIT_AUTH_TOKEN.HOST` for one host alone
_USER = 1000  # inside the session's range of ids
_COMMIT = re.compile(r"(?:[0-9a-f]{40}|[0-9a-f]{64})\Z")
_PART_OF_COMMIT = re.compile(r"[0-9a-f]{7,64}\Z")
_BAD_REF = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|\A[-/.]|[/.]\Z|\.lock\Z|/\.")
_MAX_REF = 250


@dataclass(frozen=True)
class GitFetcher:
    """Fetches repositories. `downloader` judges addresses."""

    downloader: Downloader
    limit_bytes: int = MAX_BYTES

    @contextmanager
    def session(
        self,
        reference: GitReference,
        folder: Path,
        idmap: IdMap,
        netns: Path,
        *,
        check: Check,
        secrets: Mapping[str, bytes] | None = None,
    ) -> Iterator[GitSession]:
        """Have git ready for one repository. `folder` is an empty one of ours, `idmap` and `netns` are nobody else's.

        Raises `InvalidInput` for what cannot be a reference, `Unsupported` for a protocol that is not spoken.
        """
        check_reference(reference)
        if reference.remote.startswith(("git://", "ssh://")) or "://" not in reference.remote:
            raise Unsupported(
                f"repositories are fetched by http and https only, not from {shown(reference.remote)}",
                hint="write it as https://; a token for it is the build's secret GIT_AUTH_TOKEN",
            )
        with ExitStack() as stack:
            folder.chmod(0o711)
            stack.callback(remove_tree, folder / "home")
            listener = in_netns(netns, _listen)
            relay = stack.enter_context(Relay(listener, self.downloader.connect, self.limit_bytes))
            proxy = f"socks5h://127.0.0.1:{listener.getsockname()[1]}"
            remote, credentials = _without_credentials(reference.remote, secrets or {})
            git = Git(folder, netns, idmap.to_host(_USER), proxy, remote, relay, self.limit_bytes, check)
            git.make("home")
            if credentials:
                git.trust(credentials)
            yield GitSession(reference, remote, git, folder)


@dataclass
class GitSession:
    """One repository. What `commit` found is what `check_out` gives."""

    reference: GitReference
    remote: str
    _git: Git
    _folder: Path
    _commit: str = ""
    _name: str = ""  # how the server calls what is wanted

    def commit(self) -> str:
        """Return the commit that the reference means, asking the server unless the reference is a commit itself.

        Raises `NotFound` for a reference that is not there, `InvalidInput` when the commit is not the promised one.
        """
        if not self._commit:
            self._commit = self._resolve()
            promised = self.reference.checksum
            if promised and not self._commit.startswith(promised):
                raise InvalidInput(
                    f"expected checksum to match {promised}, got {self._commit}",
                    hint="the branch or tag has moved: give the new commit, after looking at it",
                )
        return self._commit

    def check_out(self, *, keep_git_dir: bool) -> Path:
        """Return the folder with the repository's files; with `.git` where that is asked for."""
        commit = self.commit()
        tree = self._folder / "tree"
        for name in ("tree", "store"):
            self._git.make(name)
        self._git.at("tree/.git" if keep_git_dir else "store")
        self._git("init", "--quiet", "--template=")
        self._git("config", "remote.origin.url", self.remote)
        self._fetch(commit)
        self._git("checkout", "--quiet", "--force", "--detach", commit)
        if self.reference.submodules is not False and (tree / ".gitmodules").is_file():
            self._git(
                "-C", f"{PLACE}/tree", "submodule", "--quiet", "update", "--init", "--recursive", "--depth=1"
            )
        if self.reference.mtime == "commit":
            self._set_times(tree, commit)
        _clean(tree, keep_git_dir=keep_git_dir)
        return tree

    def _resolve(self) -> str:
        wanted = self.reference
        if wanted.fetch_by_commit and _COMMIT.match(wanted.checksum):
            return wanted.checksum
        if _COMMIT.match(wanted.ref):
            return wanted.ref
        names = [wanted.ref] if wanted.ref.startswith("refs/") else []
        if wanted.ref and not names:
            names = [f"refs/heads/{wanted.ref}", f"refs/tags/{wanted.ref}"]
        names = names or ["HEAD"]
        patterns = [pattern for name in names for pattern in (name, name + "^{}")]
        found: dict[str, str] = {}
        for line in self._git("ls-remote", "--quiet", "--", self.remote, *patterns).splitlines():
            commit, _, name = line.partition("\t")
            if _COMMIT.match(commit):
                found[name] = commit
        for name in names:
            if commit := found.get(name + "^{}") or found.get(name, ""):
                self._name = name
                return commit
        if _PART_OF_COMMIT.match(wanted.ref):
            return self._expand(wanted.ref)
        raise NotFound(
            f"{shown(self.remote)} has no {wanted.ref or 'HEAD'}", hint="name a branch, a tag or a commit"
        )

    def _expand(self, part: str) -> str:
        """Find the one commit that begins with `part`, which takes all of the history."""
        for name in ("tree", "all"):
            self._git.make(name)
        self._git.at("all")
        self._git("init", "--quiet", "--template=")
        self._git("fetch", "--quiet", "--no-tags", "--", self.remote, "+refs/heads/*:refs/remotes/origin/*")
        try:
            return self._git(
                "rev-parse", "--verify", "--quiet", "--end-of-options", part + "^{commit}"
            ).strip()
        except GitFailed as error:
            raise NotFound(
                f"{shown(self.remote)} has no commit {part}", hint="give all its digits"
            ) from error

    def _fetch(self, commit: str) -> None:
        shallow = ("fetch", "--quiet", "--no-tags", "--depth=1", "--no-recurse-submodules", "--")
        try:
            self._git(
                *shallow, self.remote, f"+{self._name}:refs/wharfinger/wanted" if self._name else commit
            )
            self._git("cat-file", "-e", commit + "^{commit}")
        except GitFailed:
            # moved meanwhile, or a server that gives no single commits: then all of it
            self._git(
                "fetch", "--quiet", "--no-tags", "--", self.remote,
                "+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*",
            )  # fmt: skip
            try:
                self._git("cat-file", "-e", commit + "^{commit}")
            except GitFailed as error:
                raise NotFound(f"{shown(self.remote)} has no commit {commit}") from error

    def _set_times(self, tree: Path, commit: str) -> None:
        seconds = int(self._git("log", "-1", "--format=%ct", commit).strip())
        for folder, _, files in os.walk(tree):
            for name in (".", *files):
                os.utime(posixpath.join(folder, name), (seconds, seconds), follow_symlinks=False)


def check_reference(reference: GitReference) -> None:
    """Refuse a reference that no repository can have, or that git could read as an option (BU-07)."""
    ref = reference.ref
    if ref and (len(ref) > _MAX_REF or _BAD_REF.search(ref)):
        raise InvalidInput(
            f"not a reference of a repository: {ref[:100]!r}", hint="name a branch, a tag or a commit"
        )
    if reference.checksum and not _PART_OF_COMMIT.match(reference.checksum):
        raise InvalidInput(
            f"not a commit: {reference.checksum[:100]!r}",
            hint="the checksum of a repository is a commit's hex digits",
        )
    if reference.fetch_by_commit and not _COMMIT.match(reference.checksum):
        raise InvalidInput("fetch-by-commit needs the whole commit as checksum")


def _without_credentials(remote: str, secrets: Mapping[str, bytes]) -> tuple[str, str]:
    """Return the address without its credentials, and a line for git's credential store (empty for none)."""
    parts = urlsplit(remote)
    host = parts.netloc.rpartition("@")[2]
    bare = urlunsplit((parts.scheme, host, parts.path, parts.query, ""))
    user, password = parts.username, parts.password
    token = secrets.get(f"{TOKEN_SECRET}.{parts.hostname}", secrets.get(TOKEN_SECRET))
    if user is None and token is not None:
        user, password = "x-access-token", quote(token.decode("utf-8", "surrogateescape").strip(), safe="")
    if user is None:
        return bare, ""
    pair = f"{quote(unquote(user), safe='')}:{quote(unquote(password or ''), safe='')}"
    return bare, f"{parts.scheme}://{pair}@{host}"


def _clean(tree: Path, *, keep_git_dir: bool) -> None:
    """Take out of the files what only says how they came here."""
    for folder, names, files in os.walk(tree):
        if ".git" in names:
            names.remove(".git")
        if ".git" in files and not keep_git_dir:
            os.unlink(posixpath.join(folder, ".git"))
    if keep_git_dir and not (tree / ".git").is_symlink():
        (tree / ".git" / "FETCH_HEAD").unlink(missing_ok=True)


def _listen() -> socket.socket:
    """Bring loopback up in this (new) network namespace and listen there."""
    with Netlink(NETLINK_ROUTE) as route:
        loopback = links.find_link(route, "lo")
        assert loopback is not None
        route.request(links.set_up(loopback.index))
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind(("127.0.0.1", 0))
    listener.listen(16)
    return listener
