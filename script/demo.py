"""Builds and runs the three tiers of `examples/leafy-like` through the REST API. Run by `script/demo`; standard library only.

Everything may be repeated: what is there and as it should be stays, a container whose image has changed is made anew.
The base image of the three Dockerfiles comes from a registry where one can be reached, else from the Debian mirror that
this machine itself uses (mmdebstrap); its file system is kept in `/var/cache/wharfinger` (or `WHARFINGER_CACHE`).
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import io
import json
import os
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "leafy-like"
BASE, UPSTREAM, SUITE = "leafy-base", "docker.io/library/debian:bookworm-slim", "bookworm"
PACKAGES = "postgresql,nginx-light,python3,python3-psycopg2"
# what a container never opens: documents, translations, and the compiler that PostgreSQL can use for long queries
LEFT_OUT = (
    "/usr/share/doc/*",
    "/usr/share/locale/*",
    "*/libLLVM-*.so.1",
    "/usr/lib/postgresql/*/lib/bitcode/*",
)
NETWORK, VOLUME, PROJECT = "leafy-network", "leafy-data", "leafy"
TIERS = ("database", "backend", "frontend")
DB_PASSWORD = "leafy"  # only containers on the network reach the database
PORT = 8088
WAIT_S = 300


class Problem(Exception):
    """What a person has to know: an answer of the API, or what is missing here."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class Tier:
    """One container of the application."""

    name: str
    image: str
    service: str
    wish: dict[str, Any] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """Return the body of `POST /containers/`."""
        labels = {"com.docker.compose.project": PROJECT, "com.docker.compose.service": self.service}
        common = {"networks": [NETWORK], "restart": "unless-stopped", "labels": labels}
        return {"image": self.image, "name": self.name, **common, **self.wish}


def tiers(port: int) -> list[Tier]:
    """Return the three containers in the order of starting; only the last one is published."""
    url = f"postgresql://leafy:{DB_PASSWORD}@leafy-postgres/leafy"
    health = {
        "interval_s": 5.0,
        "timeout_s": 3.0,
        "start_period_s": 60.0,
        "start_interval_s": 0.3,
        "retries": 3,
    }
    ready = {"test": ["CMD", "pg_isready", "-q", "-h", "127.0.0.1", "-U", "leafy"], **health}
    data = f"{VOLUME}:/var/lib/postgresql/data"
    return [
        Tier(
            "leafy-postgres",
            "leafy-database:1",
            "database",
            {"env": {"DB_PASSWORD": DB_PASSWORD}, "mounts": [data], "healthcheck": ready},
        ),
        Tier("leafy-backend", "leafy-backend:1", "backend", {"env": {"DB_URL": url}}),
        Tier("leafy-front", "leafy-frontend:1", "frontend", {"ports": [f"127.0.0.1:{port}:8080"]}),
    ]


class Api:
    """The REST API of a server, under a token."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url.rstrip("/")
        self._token = token
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def call(
        self, method: str, path: str, body: Any = None, *, kind: str = "application/json", size: int = -1
    ) -> Any:
        """Send a call and return the parsed answer; `body` is JSON unless it is a file or bytes. Raises `Problem`."""
        headers = {"Authorization": f"Bearer {self._token}"}
        data: Any = body
        if body is not None:
            headers["Content-Type"] = kind
            if kind == "application/json":
                data = json.dumps(body).encode()
            if size >= 0:
                headers["Content-Length"] = str(size)
        request = urllib.request.Request(
            f"{self.url}/api/v1{path}", data=data, method=method, headers=headers
        )
        try:
            with self._opener.open(request, timeout=WAIT_S + 30) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            with error:
                raise Problem(_sentence(error.read(), error.code), error.code) from error
        except urllib.error.URLError as error:
            raise Problem(
                f"no server answers at {self.url}: {error.reason} (start one with script/server)"
            ) from error

    def find(self, path: str) -> Any:
        """Return an object; None where there is none."""
        try:
            return self.call("GET", path)
        except Problem as problem:
            if problem.status == 404:
                return None
            raise

    def work(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """Ask for work and wait for its end. Raises `Problem` where it fails or does not end in time."""
        answer = self.call(method, f"{path}{'&' if '?' in path else '?'}wait={WAIT_S}", body, **more)
        operation = (answer or {}).get("operation") or {}
        if operation.get("status") in ("queued", "running"):
            raise Problem(f"{method} {path} takes longer than {WAIT_S} s; see {self.url}{operation['url']}")
        return answer

    def build(self, folder: Path, tag: str) -> str:
        """Build a folder and return the image's id."""
        context = _packed(folder)
        edge = "wharfinger-demo-part"
        form = f'--{edge}\r\nContent-Disposition: form-data; name="tags"\r\n\r\n{tag}\r\n--{edge}\r\n'
        form += 'Content-Disposition: form-data; name="context"; filename="context.tar"\r\n\r\n'
        body = form.encode() + context + f"\r\n--{edge}--\r\n".encode()
        return str(
            self.work("POST", "/builds/", body, kind=f"multipart/form-data; boundary={edge}")["image_id"]
        )


# --- up and down --------------------------------------------------------------------------------------------------


def up(api: Api, port: int, *, offline: bool) -> None:
    """Make everything that is missing and say where the application is."""
    ensure_base(api, offline=offline)
    images = {}
    for tier in TIERS:
        say(f"building leafy-{tier}:1")
        images[f"leafy-{tier}:1"] = api.build(EXAMPLE / tier, f"leafy-{tier}:1")
    labels = {"com.docker.compose.project": PROJECT}
    if api.find(f"/networks/{NETWORK}/") is None:
        say(f"making network {NETWORK}")
        api.work("POST", "/networks/", {"name": NETWORK, "labels": labels})
    if api.find(f"/volumes/{VOLUME}/") is None:
        say(f"making volume {VOLUME}")
        api.work("POST", "/volumes/", {"name": VOLUME, "labels": labels})
    for item in tiers(port):
        ensure_container(api, item, images[item.image])
    until_it_answers(port)
    say(f"Leafy is at http://127.0.0.1:{port}/ (name: gardener, password: grow slowly)")
    say(f"its containers, network and log: {api.url}/applications/{PROJECT}/")


def ensure_container(api: Api, tier: Tier, image_id: str) -> None:
    """Have the container running with this image and these wishes."""
    there = api.find(f"/containers/{tier.name}/")
    if there and (there["image_id"] != image_id or not _published_alike(there, tier)):
        say(f"replacing {tier.name}")
        api.work("DELETE", f"/containers/{tier.name}/?force=true")
        there = None
    if there is None:
        say(f"starting {tier.name}")
        api.work("POST", "/containers/", tier.body())
    elif there["status"] != "running":
        say(f"starting {tier.name} again")
        api.work("POST", f"/containers/{tier.name}/start/", {})
    if "healthcheck" in tier.wish:
        _until(
            lambda: (api.find(f"/containers/{tier.name}/") or {}).get("health") == "healthy",
            f"{tier.name} did not become healthy; its log: {api.url}/containers/{tier.name}/",
        )


def down(api: Api) -> None:
    """Remove the containers, the network and the volume with its data; the images stay."""
    for item in reversed(tiers(PORT)):
        _remove(api, f"/containers/{item.name}/", "?force=true")
    _remove(api, f"/networks/{NETWORK}/")
    _remove(api, f"/volumes/{VOLUME}/")


def _remove(api: Api, path: str, query: str = "") -> None:
    if api.find(path) is None:
        return
    say(f"removing {path.strip('/').replace('/', ' ')}")
    try:
        api.work("DELETE", path + query)
    except Problem as problem:
        if problem.status != 404:
            raise


def _published_alike(container: dict[str, Any], tier: Tier) -> bool:
    """Tell whether a container publishes what the tier does; one that does not run publishes nothing now."""
    if container["status"] != "running":
        return True
    have = {f"{port['host_ip']}:{port['host_port']}:{port['container_port']}" for port in container["ports"]}
    return have == set(tier.wish.get("ports", ()))


def until_it_answers(port: int) -> None:
    """Wait until the front end reaches the backend and that one the database."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def answers() -> bool:
        with (
            contextlib.suppress(OSError),
            opener.open(f"http://127.0.0.1:{port}/api/health", timeout=5) as answer,
        ):
            return bool(answer.status == 200)
        return False

    _until(answers, f"nothing answers at http://127.0.0.1:{port}/api/health")


def _until(condition: Any, problem: str, within_s: float = 60) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise Problem(problem)
        time.sleep(0.2)


# --- the base image -----------------------------------------------------------------------------------------------


def ensure_base(api: Api, *, offline: bool) -> None:
    """Have the image `leafy-base`: what was made before, else built on a registry's Debian, else made here."""
    if api.find(f"/images/{quote(BASE + ':latest', safe='')}/"):
        return
    archive = cache_folder() / f"{BASE}-{SUITE}.tar"
    if not archive.exists() and not offline and _from_registry(api):
        return
    archive = base_archive()
    say(f"importing {BASE} ({archive.stat().st_size // 1_000_000} MB)")
    with archive.open("rb") as source:
        path = f"/images/import/?reference={BASE}:latest"
        api.work("POST", path, source, kind="application/x-tar", size=archive.stat().st_size)


def _from_registry(api: Api) -> bool:
    say(f"pulling {UPSTREAM}")
    try:
        api.work("POST", "/images/pull/", {"reference": UPSTREAM})
        say(f"building {BASE}")
        api.build(EXAMPLE / "base", f"{BASE}:latest")
    except Problem as problem:
        say(f"no base image from a registry: {problem}")
        return False
    return True


def cache_folder() -> Path:
    return Path(os.environ.get("WHARFINGER_CACHE") or "/var/cache/wharfinger")


def base_archive() -> Path:
    """Return a tar of the base's file system, made by mmdebstrap by whoever comes first (a minute or two)."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{BASE}-{SUITE}.tar"
    with (folder / f"{BASE}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            say(f"making {BASE} with mmdebstrap; this is done once")
            _setup("ensure_packages mmdebstrap")
            partial = target.with_suffix(".partial.tar")
            argv = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={PACKAGES}"]
            argv += [f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT]
            done = subprocess.run(
                [*argv, SUITE, str(partial), *_mirror()], capture_output=True, text=True, check=False
            )
            if done.returncode != 0:
                raise Problem(f"mmdebstrap failed: {done.stderr.strip()[-600:]}")
            partial.rename(target)
    return target


def _setup(command: str) -> None:
    """Run a function of the scripts' own library of what must be installed."""
    argv = ["bash", "-c", f'. "$1"; {command}', "bash", str(ROOT / "script/lib/setup.sh")]
    if subprocess.run(argv, check=False).returncode != 0:
        raise Problem(f"failed: {command}")


def _mirror() -> list[str]:
    """Return the Debian mirror that this machine's apt uses; none: mmdebstrap knows one."""
    for source in (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list")):
        for line in source.read_text().splitlines() if source.exists() else ():
            words = line.split()
            address = next((word for word in words if "://" in word), "")
            if words and words[0] in ("URIs:", "deb") and "debian" in address and "security" not in address:
                return [address]
    return []


# --- helpers ------------------------------------------------------------------------------------------------------


def _packed(folder: Path) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.add(folder, arcname=".", filter=_plain)
    return out.getvalue()


def _plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
    """Leave out what differs from checkout to checkout, so that the build cache knows the files again."""
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    info.mtime = 0
    return info


def _sentence(data: bytes, status: int) -> str:
    try:
        problem = json.loads(data)
        return " · ".join(part for part in (problem.get("detail"), problem.get("hint")) if part)
    except (ValueError, AttributeError):
        return f"the server answered with status {status}"


def _token() -> str:
    """Return the token to use: the environment's, or a new one for a day from this machine's server."""
    if token := os.environ.get("WHARFINGER_TOKEN"):
        return token
    argv = [str(ROOT / "script/manage"), "token", "create", "admin", "--name", "demo", "--scope", "operate"]
    done = subprocess.run([*argv, "--days", "1"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Problem(
            f"no token: {done.stderr.strip()[-300:]} (run as root beside the server, or set WHARFINGER_TOKEN)"
        )
    return done.stdout.strip()


def say(text: str) -> None:
    print(text, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="script/demo", description="A three-tier application through the REST API."
    )
    parser.add_argument("--port", type=int, default=PORT, help="of the front end on 127.0.0.1")
    parser.add_argument(
        "--down", action="store_true", help="remove containers, network and volume (data too)"
    )
    parser.add_argument(
        "--base-only", action="store_true", help="make the base's file system here, nothing else"
    )
    parser.add_argument("--offline", action="store_true", help="ask no registry for the base image")
    arguments = parser.parse_args()
    url = os.environ.get("WHARFINGER_URL") or f"http://127.0.0.1:{os.environ.get('WHARFINGER_PORT') or 8000}"
    try:
        if arguments.base_only:
            say(str(base_archive()))
            return 0
        api = Api(url, _token())
        if arguments.down:
            down(api)
        else:
            up(api, arguments.port, offline=arguments.offline)
    except Problem as problem:
        print(f"script/demo: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
