"""The docker command over TLS: a client certificate says who calls, on every kind of connection, and bad ones are refused."""

from __future__ import annotations

import io
import os
import shutil
import socket
import ssl
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.certificates import ThrowawayCA
from tests.support.hostdiff import assert_nothing_left
from tests.support.platform import ROOT, Platform, busybox_context, running_platform
from tests.support.pty import Terminal

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="wharfinger-tls-"))
    made.chmod(0o711)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="module")
def team(folder: Path) -> ThrowawayCA:
    """An authority that the team has, besides ours."""
    return ThrowawayCA(folder)


@pytest.fixture(scope="module")
def tls(folder: Path, team: ThrowawayCA) -> Iterator[Platform]:
    """A platform that speaks TLS with a certificate of our own authority."""
    if shutil.which("docker") is None:
        pytest.skip("the docker command is not installed")
    with running_platform(folder, "--tls", "--tls-client-ca", str(team.file)) as platform:
        built = platform.build(busybox_context(folder / "busybox"), "busybox:latest")
        assert built.status in (200, 201), built.body
        yield platform
    assert_nothing_left(platform.config.instance)


@pytest.fixture(autouse=True)
def no_containers(tls: Platform) -> Iterator[None]:
    yield
    tls.remove_containers()


def archive_for(tls: Platform, *argv: str) -> bytes:
    done = subprocess.run(
        [str(ROOT / "script/manage"), "docker-config", *argv, "--tls"],
        env=tls.environment, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def certificate_of(tls: Platform, target: Path, user: str = "admin", *argv: str) -> Path:
    """Write ca.pem, cert.pem and key.pem of a new certificate into a folder, as tar -x would."""
    target.mkdir()
    with tarfile.open(fileobj=io.BytesIO(archive_for(tls, user, *argv))) as archive:
        for name in ("ca.pem", "cert.pem", "key.pem"):
            member = archive.extractfile(f"tls/docker/{name}")
            assert member is not None
            (target / name).write_bytes(member.read())
    return target


@pytest.fixture(scope="module")
def admin(tls: Platform, folder: Path) -> Path:
    return certificate_of(tls, folder / "admin")


def environment(tls: Platform, certificates: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "DOCKER_HOST": f"tcp://127.0.0.1:{tls.port}",
        "DOCKER_TLS_VERIFY": "1",
        "DOCKER_CERT_PATH": str(certificates),
        "DOCKER_BUILDKIT": "0",
    }


def docker(
    tls: Platform, certificates: Path, *argv: str, stdin: str | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["docker", *argv], env=environment(tls, certificates), capture_output=True, text=True, timeout=60, check=False,
        cwd=cwd, input=stdin, stdin=subprocess.DEVNULL if stdin is None else None,
    )  # fmt: skip


def ok(tls: Platform, certificates: Path, *argv: str, **options: object) -> str:
    done = docker(tls, certificates, *argv, **options)  # type: ignore[arg-type]
    assert done.returncode == 0, f"docker {' '.join(argv)}: {done.stderr or done.stdout}"
    return done.stdout.strip()


# what works


def test_a_certificate_says_who_calls_and_the_book_knows(tls: Platform, admin: Path) -> None:
    done = docker(
        tls, admin, "run", "--rm", "--name", "sealed", "busybox", "sh", "-c", "echo out; echo e >&2; exit 3"
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "e\n")
    entries = tls.get("/audit/?target=sealed").body["results"]
    assert {(entry["actor"], entry["face"]) for entry in entries if entry["face"] == "docker"} == {
        ("admin", "docker")
    }
    assert all("docker command" in entry["token"] for entry in entries if entry["face"] == "docker")


def test_output_goes_on_after_standard_input_has_ended(tls: Platform, admin: Path) -> None:
    """The command says close_notify at the end of its input, and reads what comes after it."""
    script = "wc -c; sleep 0.5; echo after"
    told = ok(tls, admin, "run", "--rm", "-i", "busybox", "sh", "-c", script, stdin="x" * 300_000)
    assert told.split() == ["300000", "after"]
    ok(tls, admin, "run", "-d", "--name", "box", "busybox", "sleep", "60")
    assert ok(tls, admin, "exec", "-i", "box", "sh", "-c", script, stdin="four").split() == ["4", "after"]


def test_a_terminal_over_tls_with_resize_and_detach(tls: Platform, admin: Path) -> None:
    values = environment(tls, admin)
    with Terminal(["docker", "run", "-it", "--rm", "busybox", "sh"], values, rows=33, columns=111) as shell:
        shell.wait_for("#")
        deadline = time.monotonic() + 20
        while True:
            shell.type("stty size; echo do''ne\n")
            if "33 111" in shell.wait_for("done"):
                break
            assert time.monotonic() < deadline
            time.sleep(0.1)
        shell.type("exit 7\n")
        assert shell.wait() == 7
    ok(tls, admin, "run", "-d", "--name", "box", "busybox", "sleep", "60")
    with Terminal(["docker", "run", "-it", "--name", "stays", "busybox", "sh"], values) as shell:
        shell.wait_for("#")
        shell.type("\x10")
        time.sleep(0.2)
        shell.type("\x11")
        assert shell.wait() == 0
    assert ok(tls, admin, "ps", "-a", "--filter", "name=stays", "--format", "{{.State}}") == "running"
    with Terminal(["docker", "exec", "-it", "box", "sh"], values) as shell:
        shell.wait_for("#")
        shell.type("exit 4\n")
        assert shell.wait() == 4


def test_much_goes_both_ways(tls: Platform, admin: Path, tmp_path: Path) -> None:
    """Flow control of both sides: 30 MB in, the same out again, and a long log."""
    data = os.urandom(1 << 20) * 30
    (tmp_path / "in").write_bytes(data)
    ok(tls, admin, "run", "-d", "--name", "box", "busybox", "sh", "-c", "seq 1 200000; sleep 60")
    ok(tls, admin, "cp", str(tmp_path / "in"), "box:/tmp/in")
    ok(tls, admin, "cp", "box:/tmp/in", str(tmp_path / "out"))
    assert (tmp_path / "out").read_bytes() == data
    lines = ok(tls, admin, "logs", "box").split()
    assert (len(lines), lines[0], lines[-1]) == (200_000, "1", "200000")


def test_a_build_over_tls(tls: Platform, admin: Path, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo sealed > /note\n")
    assert "Successfully tagged sealed:1" in ok(tls, admin, "build", "-t", "sealed:1", ".", cwd=tmp_path)
    assert ok(tls, admin, "run", "--rm", "sealed:1", "cat", "/note") == "sealed"


def test_the_archive_is_a_context_of_the_docker_command(tls: Platform, tmp_path: Path) -> None:
    values = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "DOCKER_CONFIG": str(tmp_path / "config")}
    subprocess.run(
        ["docker", "context", "import", "wharf", "-"],
        env=values, input=archive_for(tls, "admin"), check=True, capture_output=True,
    )  # fmt: skip
    listed = subprocess.run(
        ["docker", "--context", "wharf", "version", "--format", "{{.Server.APIVersion}}"],
        env=values, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (listed.returncode, listed.stdout.strip()) == (0, "1.44"), listed.stderr


def test_docker_py_comes_with_the_same_files(
    tls: Platform, admin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)  # they go before what a session is told to believe
    docker_py = pytest.importorskip("docker")
    config = docker_py.tls.TLSConfig(
        client_cert=(str(admin / "cert.pem"), str(admin / "key.pem")),
        ca_cert=str(admin / "ca.pem"),
        verify=True,
    )
    client = docker_py.DockerClient(base_url=f"tcp://127.0.0.1:{tls.port}", tls=config)
    try:
        assert client.containers.run("busybox", ["echo", "from python"], remove=True) == b"from python\n"
        box = client.containers.run("busybox", ["sleep", "60"], detach=True)
        assert box.exec_run(["sh", "-c", "echo in; exit 5"]) == (5, b"in\n")
    finally:
        client.close()


def test_pages_and_rest_are_served_over_tls_with_cookies_for_tls_alone(tls: Platform, admin: Path) -> None:
    seen = subprocess.run(
        ["curl", "-s", "-i", "--noproxy", "*", "--cacert", str(admin / "ca.pem"), f"{tls.url}/login/"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert " 200" in seen.stdout.splitlines()[0], seen.stderr
    cookies = [line for line in seen.stdout.splitlines() if line.lower().startswith("set-cookie")]
    assert cookies
    assert all("Secure" in line for line in cookies)
    assert "strict-transport-security" in seen.stdout.lower()


def test_a_certificate_of_the_teams_own_authority_counts_once_it_is_registered(
    tls: Platform, team: ThrowawayCA, admin: Path, tmp_path: Path
) -> None:
    files = team.issue("tina")
    for name, source in (
        ("ca.pem", admin / "ca.pem"),
        ("cert.pem", files.certificate),
        ("key.pem", files.key),
    ):
        shutil.copy(source, tmp_path / name)
    refused = docker(tls, tmp_path, "ps")
    assert refused.returncode == 1
    assert "certificate" in refused.stderr
    made = tls.post(
        "/tokens/", {"name": "mine", "certificate": files.certificate.read_text(), "scope": "read"}
    )
    assert (made.status, made.body["secret"], made.body["kind"]) == (201, None, "certificate")
    assert docker(tls, tmp_path, "ps").returncode == 0
    denied = docker(tls, tmp_path, "create", "busybox")
    assert denied.returncode == 1
    assert "operate" in denied.stderr


# what does not


def handshake(tls: Platform, trusted: Path, certificate: Path | None, key: Path | None) -> bytes:
    """Connect as a client and ask for something; return the answer's first line. Raises `ssl.SSLError` when it is refused."""
    context = ssl.create_default_context(cafile=str(trusted))
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    with (
        socket.create_connection(("127.0.0.1", tls.port), 10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        connection.sendall(b"GET /v1.44/info HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return connection.recv(4096).split(b"\r\n")[0]


def test_without_a_certificate_there_is_no_identity(tls: Platform, admin: Path, tmp_path: Path) -> None:
    assert handshake(tls, admin / "ca.pem", None, None) == b"HTTP/1.1 401 Unauthorized"
    shutil.copy(admin / "ca.pem", tmp_path / "ca.pem")
    done = docker(tls, tmp_path, "ps")
    assert done.returncode == 1
    assert "docker-config" in done.stderr


def test_bad_certificates_are_refused_in_the_handshake(
    tls: Platform, team: ThrowawayCA, admin: Path, tmp_path: Path
) -> None:
    """Expired, signed by nobody we know, signed by itself, and the server's own certificate used as a client's."""
    stranger = ThrowawayCA(tmp_path)
    for files in (
        team.issue("old", expired=True),
        stranger.issue("evil"),
        team.issue("alone", self_signed=True),
    ):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            handshake(tls, admin / "ca.pem", files.certificate, files.key)
    own = tls.home / "web" / "keys" / "server.pem"
    with pytest.raises((ssl.SSLError, ConnectionError)):
        handshake(tls, admin / "ca.pem", own, own)


def test_who_registers_an_expired_or_foreign_thing_is_told(
    tls: Platform, team: ThrowawayCA, tmp_path: Path
) -> None:
    expired = team.issue("old", expired=True)
    for text in (expired.certificate.read_text(), team.pem, "no certificate", expired.key.read_text()):
        refused = tls.post("/tokens/", {"name": "x", "certificate": text})
        assert (refused.status, "certificate" in refused.body["fields"]) == (400, True), refused.body


def test_revoked_and_it_is_over_at_once_and_for_good(tls: Platform, folder: Path) -> None:
    mine = certificate_of(tls, folder / "revoked")
    assert docker(tls, mine, "ps").returncode == 0
    token = next(
        item
        for item in tls.get("/tokens/").body["results"]
        if item["kind"] == "certificate" and item["is_valid"]
    )
    ok(
        tls,
        mine,
        "run",
        "-d",
        "--name",
        "talks",
        "busybox",
        "sh",
        "-c",
        "while :; do echo x; sleep 0.2; done",
    )
    follower = subprocess.Popen(
        ["docker", "logs", "-f", "talks"],
        env=environment(tls, mine),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        time.sleep(1)
        assert follower.poll() is None
        assert tls.call("DELETE", f"/tokens/{token['id']}/").status == 200
        follower.communicate(timeout=10)  # AP-05: live connections end with it
    finally:
        follower.kill()
        follower.communicate()
    done = docker(tls, mine, "ps")
    assert done.returncode == 1
    assert "not valid" in done.stderr
    again = tls.post("/tokens/", {"name": "again", "certificate": (mine / "cert.pem").read_text()})
    assert again.status == 409


def test_a_person_who_has_left_has_no_certificate_any_more(tls: Platform, folder: Path) -> None:
    tls.post("/users/", {"username": "lena", "password": "lena has a long password", "role": "operator"})
    hers = certificate_of(tls, folder / "lena", "lena")
    assert docker(tls, hers, "ps").returncode == 0
    assert tls.call("PATCH", "/users/lena/", {"is_active": False}).status == 200
    done = docker(tls, hers, "ps")
    assert done.returncode == 1
    assert "not valid" in done.stderr


def test_a_certificate_is_no_bearer_token(tls: Platform, admin: Path) -> None:
    """Its fingerprint is what is kept; neither it nor the certificate's bytes open anything as a header."""
    der = ssl.PEM_cert_to_DER_cert((admin / "cert.pem").read_text())
    fingerprints = [
        item["fingerprint"] for item in tls.get("/tokens/").body["results"] if item["fingerprint"]
    ]
    assert fingerprints
    for secret in (fingerprints[0], der.hex()):
        assert tls.call("GET", "/v1.44/containers/json", token=secret, base="").status == 401


def test_an_unencrypted_client_is_told_so(tls: Platform) -> None:
    done = subprocess.run(
        ["docker", "ps"],
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", "DOCKER_HOST": f"tcp://127.0.0.1:{tls.port}"},
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert done.returncode == 1
    assert "HTTP request to an HTTPS server" in done.stderr


def test_who_connects_and_says_nothing_is_not_kept(tls: Platform, admin: Path) -> None:
    """A handshake has ten seconds; others are served meanwhile."""
    with socket.create_connection(("127.0.0.1", tls.port), 20) as silent:
        assert docker(tls, admin, "ps").returncode == 0
        silent.settimeout(15)
        assert silent.recv(1) == b""


# how the server is started


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--tls-cert", "/nonexistent"], "belong together"),
        (["--tls-cert", "/nonexistent", "--tls-key", "/nonexistent"], "No such file"),
        (["--tls-client-ca", "/nonexistent"], "means something only with --tls"),
        (["--tls", "--tls-client-ca", "/etc/hostname"], "TLS cannot be used"),
    ],
)
def test_a_server_that_cannot_speak_tls_says_why(tmp_path: Path, argv: list[str], words: str) -> None:
    done = subprocess.run(
        [str(ROOT / ".venv/bin/python"), str(ROOT / "script/serve.py"), *argv],
        env={**os.environ, "WHARFINGER_HOME": str(tmp_path / "home")}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_given_certificate_is_served_and_believed(folder: Path, team: ThrowawayCA) -> None:
    """Its key is root's alone: web gets a copy in memory."""
    files = team.issue("127.0.0.1", "localhost")
    files.key.chmod(0o600)
    place = folder / "given"
    place.mkdir(mode=0o711)
    argv = ("--tls-cert", str(files.certificate), "--tls-key", str(files.key))
    with running_platform(place, *argv) as platform:
        mine = certificate_of(platform, place / "mine")
        assert (mine / "ca.pem").read_bytes() == files.certificate.read_bytes()
        assert docker(platform, mine, "ps", "-q").returncode == 0
        assert docker(platform, folder / "nobody", "ps").returncode == 1
    assert_nothing_left(platform.config.instance)
