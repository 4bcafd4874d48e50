"""The repositories that one instruction (or a build's context) comes from: asked for their commit first, fetched only when needed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType

from engine.build.clock import BuildClock
from engine.build.gitref import GitReference
from engine.build.ops.gitfetch import GitFetcher, GitSession
from engine.build.request import BuildRequest
from engine.build.secrecy import without_credentials
from engine.build.services import Services
from engine.build.trees import Tree
from engine.build.workspace import Workspace
from engine.linux.userns import RangeAllocator, temporary_userns


class Repositories:
    """Use as a context manager; afterwards git has no place on the host any more, its files live as long as the build."""

    def __init__(
        self,
        services: Services,
        workspace: Workspace,
        clock: BuildClock,
        request: BuildRequest,
        note: Callable[[str], None],
    ) -> None:
        self._services = services
        self._workspace = workspace
        self._clock = clock
        self._request = request
        self._note = note
        self._stack = ExitStack()
        self._sessions: dict[str, GitSession] = {}

    def __enter__(self) -> Repositories:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def commit(self, repository: GitReference) -> str:
        """Return the commit that the reference means now; nothing is fetched for it."""
        return self._session(repository).commit()

    def tree(self, repository: GitReference) -> tuple[Tree, str]:
        """Return the files of the commit, and the commit."""
        session = self._session(repository)
        commit = session.commit()
        shown = without_credentials(repository.remote)
        self._note(f"fetching {shown} at {commit}")
        folder = session.check_out(keep_git_dir=bool(repository.keep_git_dir))
        return Tree(folder, f"the repository {shown}", keeps_owners=False, fixed=True), commit

    def _session(self, repository: GitReference) -> GitSession:
        key = repr(repository)
        if key not in self._sessions:
            place = self._workspace.folder("git")
            ranges = RangeAllocator(self._services.db, self._services.config)
            idmap = self._stack.enter_context(
                temporary_userns(ranges, self._workspace.name("git"), place, netns=place / "net")
            )
            self._sessions[key] = self._stack.enter_context(
                GitFetcher(self._services.downloader).session(
                    repository,
                    self._workspace.folder("repository", on_disk=True),
                    idmap,
                    place / "net",
                    check=self._clock.check,
                    secrets=self._request.secrets,
                )
            )
        return self._sessions[key]
