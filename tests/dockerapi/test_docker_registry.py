"""Rows 14, 16, 17 and 18 as people type them: login, push, pull, search and logout at a real registry."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.support.platform import Platform
from tests.support.registry import RealRegistry, real_registry

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRegistry]:
    with real_registry(tmp_path_factory.mktemp("registry"), auth=True) as running:
        yield running


@pytest.fixture
def config(tmp_path: Path, engine: Platform) -> dict[str, str]:
    """A configuration of the docker command's own, in which a login may be stored."""
    folder = tmp_path / "docker-config"
    folder.mkdir()
    known = {"HttpHeaders": {"Authorization": f"Bearer {engine.token}"}}
    (folder / "config.json").write_text(json.dumps(known))
    return {"DOCKER_CONFIG": str(folder)}


def run(engine: Platform, config: dict[str, str], *argv: str) -> tuple[int, str]:
    """Run the docker command; return its status and all that it said."""
    done = subprocess.run(
        ["docker", *argv],
        env={**engine.docker_environment(), **config},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_login_push_pull_search_and_logout(
    engine: Platform, registry: RealRegistry, config: dict[str, str]
) -> None:
    host = registry.domain
    name = f"{host}/team/box"

    def docker(*argv: str) -> tuple[int, str]:
        return run(engine, config, *argv)

    def ok(*argv: str) -> str:
        status, said = docker(*argv)
        assert status == 0, said
        return said

    ok("tag", "busybox", f"{name}:1")
    status, said = docker("push", f"{name}:1")
    assert status != 0
    assert "without a login" in said
    status, said = docker("login", "-u", registry.username, "-p", "wrong", host)
    assert status != 0
    assert "does not accept the user name and password" in said
    assert "Login Succeeded" in ok("login", "-u", registry.username, "-p", registry.password, host)

    assert "1: digest: sha256:" in ok("push", f"{name}:1")
    assert "Layer already exists" in ok("push", f"{name}:1")
    ok("tag", f"{name}:1", f"{name}:2")
    said = ok("push", "--all-tags", name)
    assert "1: digest: sha256:" in said
    assert "2: digest: sha256:" in said
    held = json.loads(ok("image", "inspect", f"{name}:1"))[0]["Id"]
    ok("image", "rm", f"{name}:1", f"{name}:2")
    assert "Downloaded newer image" in ok("pull", f"{name}:1")
    assert "Image is up to date" in ok("pull", f"{name}:1")
    assert json.loads(ok("image", "inspect", f"{name}:1"))[0]["Id"] == held
    ok("pull", "-a", name)
    assert set(ok("image", "ls", name, "--format", "{{.Tag}}").split()) == {"1", "2"}

    status, said = docker("pull", f"{name}:none")
    assert status != 0
    assert "has no team/box:none" in said
    ok("image", "rm", f"{name}:1", f"{name}:2")
    ok("logout", host)
    status, said = docker("pull", f"{name}:1")
    assert status != 0
    assert "without a login" in said


def test_an_account_of_the_team_serves_rest_and_the_docker_command(
    engine: Platform, registry: RealRegistry, config: dict[str, str]
) -> None:
    host = registry.domain
    name = f"{host}/shared/box"
    account = {"host": host, "username": registry.username, "secret": registry.password}
    assert engine.post("/registries/", account).status == 201
    try:
        busybox = engine.get("/images/busybox/").body["id"]
        for tag, wish in (("1", {}), ("z", {"compression": "zstd"})):
            assert (
                engine.post(f"/images/{busybox}/tag/?wait=30", {"reference": f"{name}:{tag}"}).status == 201
            )
            pushed = engine.post(f"/images/{quote(f'{name}:{tag}', safe='')}/push/?wait=60", wish)
            assert pushed.status == 200, pushed.body
        tags = engine.get(f"/images/tags/?reference={name}").body
        assert tags == {"repository": name, "tags": ["1", "z"]}
        found = engine.get(f"/images/search/?term={host}/shared").body["results"]
        assert [row["name"] for row in found] == [name]
        status, said = run(engine, config, "search", f"{host}/shared")
        assert (status, name in said) == (0, True), said
        refused = engine.post(
            f"/images/{busybox}/push/?wait=30", {"reference": f"{name}:all", "all_platforms": True}
        )
        assert refused.status == 400
        assert "several platforms" in refused.body["detail"]
        for tag in "1z":
            engine.call("DELETE", f"/images/{quote(f'{name}:{tag}', safe='')}/?wait=30")
        pulled = engine.post("/images/pull/?wait=60", {"reference": name, "all_tags": True})
        assert pulled.status == 200, pulled.body
        assert {f"{name}:1", f"{name}:z"} <= {
            tag for image in engine.get("/images/").body["results"] for tag in image["names"]
        }
        assert "secret" not in json.dumps(engine.get("/registries/").body).replace("has_secret", "").replace(
            "secret_kind", ""
        )
    finally:
        engine.call("DELETE", f"/registries/{host}/")
        for tag in "1z":
            engine.call("DELETE", f"/images/{quote(f'{name}:{tag}', safe='')}/?force=true&wait=30")


def test_what_others_push_is_pulled_and_runs(
    engine: Platform, registry: RealRegistry, config: dict[str, str], tmp_path: Path
) -> None:
    """skopeo writes the image into the registry in its own form; the docker command pulls and runs it."""
    if shutil.which("skopeo") is None:
        pytest.skip("skopeo is not installed")
    archive, name = tmp_path / "box.tar", f"{registry.domain}/theirs/box:1"
    assert run(engine, config, "save", "-o", str(archive), "busybox")[0] == 0
    options = ["--dest-tls-verify=false", f"--dest-creds={registry.username}:{registry.password}"]
    options += ["-q", "--format", "oci"]
    copied = subprocess.run(
        ["skopeo", "copy", *options, f"docker-archive:{archive}", f"docker://{name}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert copied.returncode == 0, copied.stderr
    run(engine, config, "login", "-u", registry.username, "-p", registry.password, registry.domain)
    status, said = run(engine, config, "run", "--rm", "--pull", "always", name, "echo", "it runs")
    assert status == 0, said
    assert "it runs" in said
    run(engine, config, "image", "rm", "-f", name)
