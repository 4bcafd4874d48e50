"""login, push, pull, search and logout by the docker command, against a real registry with accounts on loopback."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.platform import Platform
from tests.support.registry import RealRegistry, real_registry

pytestmark = pytest.mark.root


@dataclass
class Shell:
    """A person's docker with a configuration of its own, where `docker login` keeps what it learns."""

    engine: Platform
    folder: Path

    def run(self, *argv: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        values = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "DOCKER_CONFIG": str(self.folder),
            "DOCKER_HOST": f"tcp://127.0.0.1:{self.engine.port}",
        }
        return subprocess.run(
            ["docker", *argv], env=values, capture_output=True, text=True, timeout=60, check=False,
            input=stdin, stdin=subprocess.DEVNULL if stdin is None else None,
        )  # fmt: skip

    def ok(self, *argv: str, stdin: str | None = None) -> str:
        done = self.run(*argv, stdin=stdin)
        assert done.returncode == 0, f"docker {' '.join(argv)}: {done.stderr or done.stdout}"
        return done.stdout.strip()

    def login(self, registry: RealRegistry, password: str) -> subprocess.CompletedProcess[str]:
        return self.run("login", "-u", registry.username, "--password-stdin", registry.domain, stdin=password)

    def kept(self) -> dict[str, object]:
        return json.loads((self.folder / "config.json").read_text()).get("auths") or {}


@pytest.fixture
def shell(engine: Platform, tmp_path: Path) -> Shell:
    headers = {"HttpHeaders": {"Authorization": f"Bearer {engine.token}"}}
    (tmp_path / "config.json").write_text(json.dumps(headers))
    return Shell(engine, tmp_path)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRegistry]:
    with real_registry(tmp_path_factory.mktemp("registry"), auth=True) as served:
        yield served


def test_login_keeps_what_fits_and_logout_forgets_it(shell: Shell, registry: RealRegistry) -> None:
    wrong = shell.login(registry, "not the password")
    assert wrong.returncode == 1
    assert "does not accept the user name and password" in wrong.stderr
    assert registry.domain not in shell.kept()
    right = shell.login(registry, registry.password)
    assert (right.returncode, "Login Succeeded" in right.stdout) == (0, True), right.stderr
    assert registry.domain in shell.kept()
    shell.ok("logout", registry.domain)
    assert registry.domain not in shell.kept()
    book = json.dumps(shell.engine.get("/audit/?limit=50").body)
    assert registry.password not in book
    assert "not the password" not in book


def test_push_and_pull_as_a_person_with_an_account(shell: Shell, registry: RealRegistry) -> None:
    name = f"{registry.domain}/team/box:1"
    shell.ok("tag", "busybox", name)
    denied = shell.run("push", name)
    assert denied.returncode == 1
    assert "without a login" in denied.stderr
    assert shell.login(registry, registry.password).returncode == 0
    first = shell.ok("push", name)
    assert f"The push refers to repository [{registry.domain}/team/box]" in first
    assert "Pushed" in first
    digest = next(line.split()[2] for line in first.splitlines() if line.startswith("1: digest: sha256:"))
    assert "Layer already exists" in shell.ok("push", name)  # only layers that the registry lacks
    shell.ok("rmi", name)
    assert f"Status: Downloaded newer image for {name}" in shell.ok("pull", name)
    assert f"Status: Image is up to date for {name}" in shell.ok("pull", name)
    shell.ok("rmi", "-f", name)
    by_digest = f"{registry.domain}/team/box@{digest}"
    assert f"Digest: {digest}" in shell.ok("pull", by_digest)
    assert digest in shell.ok("inspect", "--format", "{{.RepoDigests}}", by_digest)
    assert shell.ok("run", "--rm", by_digest, "echo", "pulled") == "pulled"
    shell.ok("rmi", "-f", by_digest)
    shell.ok("logout", registry.domain)
    again = shell.run("pull", name)
    assert again.returncode == 1
    assert "without a login" in again.stderr


def test_all_tags_and_what_is_not_there(shell: Shell, registry: RealRegistry) -> None:
    assert shell.login(registry, registry.password).returncode == 0
    names = [f"{registry.domain}/team/many:{tag}" for tag in ("a", "b")]
    for name in names:
        shell.ok("tag", "busybox", name)
    shell.ok("push", "--all-tags", f"{registry.domain}/team/many")
    shell.ok("rmi", *names)
    shell.ok("pull", "--all-tags", f"{registry.domain}/team/many")
    assert shell.ok("images", "--format", "{{.Tag}}", f"{registry.domain}/team/many").split() == ["a", "b"]
    shell.ok("rmi", *names)
    for missing in ("team/many:nosuch", "team/nosuch"):
        done = shell.run("pull", f"{registry.domain}/{missing}")
        assert done.returncode == 1
        assert "has no team/" in done.stderr
    nobody = shell.run("push", f"{registry.domain}/team/never-tagged:1")
    assert nobody.returncode == 1
    assert "does not exist" in nobody.stderr or "No such image" in nobody.stderr


def test_run_pulls_what_is_missing_and_tags_need_no_registry(shell: Shell, registry: RealRegistry) -> None:
    assert shell.login(registry, registry.password).returncode == 0
    name = f"{registry.domain}/team/fresh:1"
    shell.ok("tag", "busybox", name)
    shell.ok("push", name)
    shell.ok("rmi", name)
    done = shell.run("run", "--rm", name, "echo", "here")
    assert (done.returncode, done.stdout) == (0, "here\n"), done.stderr
    assert f"Unable to find image '{name}' locally" in done.stderr
    shell.ok("tag", name, "no-registry/at-all:2")  # the command asks nobody
    assert shell.ok("inspect", "--format", "{{.Id}}", name) == shell.ok(
        "inspect", "--format", "{{.Id}}", "no-registry/at-all:2"
    )
    shell.ok("rmi", name, "no-registry/at-all:2")


def test_a_build_takes_its_base_with_the_persons_account(shell: Shell, registry: RealRegistry) -> None:
    """The command sends what it knows of registries with a build (X-Registry-Config)."""
    assert shell.login(registry, registry.password).returncode == 0
    name = f"{registry.domain}/team/base:1"
    shell.ok("tag", "busybox", name)
    shell.ok("push", name)
    shell.ok("rmi", name)
    context = shell.folder / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(f"FROM {name}\nRUN echo built > /note\n")
    built = shell.run("build", "-t", "from-registry:1", str(context))
    assert built.returncode == 0, built.stderr
    assert shell.ok("run", "--rm", "from-registry:1", "cat", "/note") == "built"
    shell.ok("rmi", "-f", "from-registry:1", name)


def test_search_finds_what_a_registry_lists(shell: Shell, registry: RealRegistry) -> None:
    assert shell.login(registry, registry.password).returncode == 0
    name = f"{registry.domain}/team/findme:1"
    shell.ok("tag", "busybox", name)
    shell.ok("push", name)
    shell.ok("rmi", name)
    found = shell.run("search", "--format", "{{.Name}}", f"{registry.domain}/findme")
    assert found.returncode == 0, found.stderr
    assert any(line.endswith("team/findme") for line in found.stdout.splitlines())
    assert shell.ok("search", "--format", "{{.Name}}", f"{registry.domain}/nothing-like-it") == ""
