"""A build's context from an address: a git repository, an archive, or a Dockerfile alone (`POST /build?remote=`)."""

from __future__ import annotations

from collections.abc import Callable

from engine.build.clock import BuildClock
from engine.build.context import BuildContext, empty_context, folder_context, unpack_context
from engine.build.gitref import GitReference, parse_git_reference
from engine.build.ops.archives import is_archive
from engine.build.parser import MAX_BYTES
from engine.build.repositories import Repositories
from engine.build.request import BuildRequest
from engine.build.secrecy import without_credentials
from engine.build.services import Services
from engine.build.trees import Tree
from engine.build.workspace import Workspace
from engine.build.zipreader import is_zip
from engine.errors import InvalidInput


def remote_context(
    request: BuildRequest,
    services: Services,
    workspace: Workspace,
    clock: BuildClock,
    note: Callable[[str], None],
) -> BuildContext:
    """Fetch what `request.remote` names. Addresses are judged as those of ADD; raises `InvalidInput` for other ones."""
    repository = parse_git_reference(request.remote)
    if repository is not None:
        with Repositories(services, workspace, clock, request, note) as repositories:
            tree, commit = repositories.tree(repository)
        note(f"building commit {commit}")
        return _of_repository(tree, repository, request.dockerfile_path)
    if not request.remote.startswith(("http://", "https://")):
        raise InvalidInput(
            f"not an address of a context: {without_credentials(request.remote)[:200]!r}",
            hint="give a git repository (its address ends in .git), an archive or a Dockerfile by http or https",
        )
    folder = workspace.folder("remote", on_disk=True)
    note(f"fetching {without_credentials(request.remote)}")
    services.downloader.fetch(request.remote, folder / "file", check=clock.check)
    return _of_file(Tree(folder, "the download", fixed=True), request, workspace, clock)


def _of_repository(tree: Tree, repository: GitReference, dockerfile_path: str) -> BuildContext:
    real = tree.resolve(repository.subdir)
    if real is None or not (tree.root / real).is_dir():
        raise InvalidInput(f'"/{repository.subdir}" of {tree.title} is not a folder')
    context = folder_context(tree.root / real, dockerfile_path)
    context.tree.fixed = True
    return context


def _of_file(tree: Tree, request: BuildRequest, workspace: Workspace, clock: BuildClock) -> BuildContext:
    path = tree.root / "file"
    with path.open("rb") as file:
        packed = is_zip(file)
    if packed or is_archive(tree, "file"):
        return unpack_context(path, workspace.data / "context", request.dockerfile_path, check=clock.check)
    if path.stat().st_size > MAX_BYTES:
        raise InvalidInput("the address leads neither to an archive nor to a Dockerfile")
    context = empty_context(workspace.folder("empty"))
    context.dockerfile = path.read_bytes()
    return context
