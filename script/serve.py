"""Starts and watches all processes of one machine: redis, web, relay, worker, agent.

Run by `script/server` (in the foreground, as root) and, with `--manage`, by `script/manage`. Standard library only.

Who runs as what: redis, web and relay as the account `wharfinger`, without capabilities; worker and agent as root, since
they mount file systems. A process that dies is started again, with a pause that doubles up to ten seconds. Containers
are no children of ours: they go on when all of this stops.

The listening sockets (TCP and `docker.sock`) are made here and handed to web as open descriptors, so web needs no
right to bind low ports, and a restart of web refuses no connection. So are the certificate and the key of TLS, which often
only root can read: web gets copies in memory, and no other process does.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import grp
import os
import pwd
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ACCOUNT = "wharfinger"
LONGEST_SOCKET_PATH = 100  # sun_path holds 108 bytes (unix(7))
STOP_GRACE_S = 15.0


@dataclass(frozen=True)
class Process:
    """A program of the platform: `argv` after the interpreter, whether it needs root, which descriptors it inherits."""

    name: str
    argv: list[str]
    as_root: bool = False
    descriptors: tuple[int, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)


class Home:
    """The folders below WHARFINGER_HOME and who may read them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.redis_socket = path / "redis" / "redis.sock"
        self.docker_socket = path / "docker.sock"
        if len(str(self.redis_socket)) > LONGEST_SOCKET_PATH:
            fail(f"WHARFINGER_HOME is too long for a unix socket: {path}")

    def make(self) -> None:
        """Make every folder with its owner and mode; what is there keeps its content."""
        ensure_account()
        self.path.mkdir(parents=True, exist_ok=True, mode=0o755)
        self._folder("redis", ACCOUNT, 0o750)
        self._folder("web", ACCOUNT, 0o700)
        self._folder("spool", ACCOUNT, 0o750)
        self._folder("spool/in", ACCOUNT, 0o750)
        self._folder("spool/out", ACCOUNT, 0o770)
        self._folder("keys", "root", 0o750)
        self._folder("engine", "root", 0o700)
        if not _account_may("-x", self.path):
            fail(
                f"the account {ACCOUNT!r} cannot reach {self.path}: a folder above it is closed (chmod o+x opens the way)"
            )

    def _folder(self, name: str, owner: str, mode: int) -> None:
        folder = self.path / name
        folder.mkdir(exist_ok=True)
        os.chown(folder, pwd.getpwnam(owner).pw_uid, grp.getgrnam(ACCOUNT).gr_gid)
        folder.chmod(mode)


def ensure_account() -> None:
    """Make the system account that web, relay and redis run as."""
    try:
        pwd.getpwnam(ACCOUNT)
    except KeyError:
        argv = ["useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]
        subprocess.run([*argv, "--shell", "/usr/sbin/nologin", ACCOUNT], check=True)


def environment(home: Home, host: str, port: int) -> dict[str, str]:
    """Return the environment of all processes: the caller's settings, the embedded defaults where it has none."""
    values = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("WHARFINGER_", "DJANGO_"))
        or name in ("PATH", "LANG", "LC_ALL", "TZ", "DATABASE_URL", "REDIS_URL")
        or name.lower() in ("https_proxy", "http_proxy", "no_proxy")  # the node's way to registries
    }
    values.setdefault("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    values.setdefault("REDIS_URL", f"unix://{home.redis_socket}")
    values.update(
        WHARFINGER_HOME=str(home.path),
        WHARFINGER_HOST=host,
        WHARFINGER_PORT=str(port),
        DJANGO_SETTINGS_MODULE="webapp.settings.server",
        PYTHONUNBUFFERED="1",
        PYTHONDONTWRITEBYTECODE="1",
        MALLOC_ARENA_MAX="2",  # mallopt(3): with one for each of many threads, memory that was used once is never given back
    )
    return values


def unprivileged(argv: list[str], home: Home) -> list[str]:
    """Wrap `argv` to run as the account, without capabilities, in the checkout even where its path is closed to it."""
    drop = ["setpriv", f"--reuid={ACCOUNT}", f"--regid={ACCOUNT}", "--clear-groups", "--no-new-privs"]
    drop += ["--inh-caps=-all", "--bounding-set=-all", "--pdeathsig=TERM"]
    if _account_may("-r", ROOT / "manage.py"):
        return [*drop, *argv]
    # a checkout below /root: the account sees it through a bind mount that only its own processes have
    window = home.path / "app"
    window.mkdir(exist_ok=True)
    enter = 'mount --bind "$1" "$2" && cd "$2" && shift 2 && exec "$@"'
    moved = [
        str(window / Path(part).relative_to(ROOT)) if part.startswith(f"{ROOT}/") else part for part in argv
    ]
    return [
        "unshare",
        "--mount",
        "--propagation=slave",
        "sh",
        "-c",
        enter,
        "sh",
        str(ROOT),
        str(window),
        *drop,
        *moved,
    ]


def _account_may(what: str, path: Path) -> bool:
    """Ask test(1), as the account, about a path: `-r` readable, `-x` passable."""
    test = ["setpriv", f"--reuid={ACCOUNT}", f"--regid={ACCOUNT}", "--clear-groups", "test", what, str(path)]
    return subprocess.run(test, check=False).returncode == 0


def python(*argv: str) -> list[str]:
    return [str(ROOT / ".venv" / "bin" / "python"), *argv]


def redis_process(home: Home) -> Process:
    """The embedded Redis: reachable through a socket that only root and the account can open, durable every second."""
    program = shutil.which("redis-server") or "/usr/bin/redis-check-rdb"
    settings = ["--port", "0", "--unixsocket", str(home.redis_socket), "--unixsocketperm", "770", "--dir"]
    settings += [str(home.path / "redis"), "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
    settings += [
        "--maxmemory-policy",
        "noeviction",
        "--loglevel",
        "warning",
        "--daemonize",
        "no",
        "--logfile",
        "",
    ]
    # redis-check-rdb is the server when its name says so: Debian's redis-tools ships one binary for both
    return Process(
        "redis",
        ["bash", "-c", 'program=$1; shift; exec -a redis-server "$program" "$@"', "bash", program, *settings],
    )


def processes(home: Home, node: str, sockets: list[socket.socket], tls: Tls) -> list[Process]:
    """Return what runs after redis, in the order of starting."""
    descriptors = tuple(item.fileno() for item in sockets)
    listening = {"WHARFINGER_LISTEN_FD": str(descriptors[0]), "WHARFINGER_DOCKER_FD": str(descriptors[1])}
    listening |= {name: f"/proc/self/fd/{number}" for name, number in tls.files.items()}
    descriptors += tuple(tls.files.values())
    threads = 4 * (os.cpu_count() or 1)
    return [
        Process("agent", python("-m", "workers.agent"), as_root=True),
        Process("worker", worker(f"node.{node}", max(16, threads)), as_root=True),
        Process("bulk", worker(f"node.{node}.bulk", max(6, threads // 2)), as_root=True),
        Process("relay", python("manage.py", "relay")),
        Process("web", python("-m", "webapp.server"), descriptors=descriptors, environment=listening),
    ]


@dataclass(frozen=True)
class Tls:
    """Whether the TCP port speaks TLS; `files` are copies in memory of what web has to read, by their variable."""

    on: bool = False
    files: dict[str, int] = field(default_factory=dict)

    @property
    def scheme(self) -> str:
        return "https" if self.on else "http"


def tls_of(arguments: argparse.Namespace) -> Tls:
    """Return what the arguments ask for; stops with the reason where it cannot be."""
    given = {
        "WHARFINGER_TLS_CERT": arguments.tls_cert,
        "WHARFINGER_TLS_KEY": arguments.tls_key,
        "WHARFINGER_TLS_CLIENT_CA": arguments.tls_client_ca,
    }
    if bool(arguments.tls_cert) != bool(arguments.tls_key):
        fail("--tls-cert and --tls-key belong together")
    if not (arguments.tls or arguments.tls_cert):
        if arguments.tls_client_ca:
            fail("--tls-client-ca means something only with --tls, or with --tls-cert and --tls-key")
        return Tls()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        if arguments.tls_cert:
            context.load_cert_chain(arguments.tls_cert, arguments.tls_key, password=lambda: "")
        if arguments.tls_client_ca:
            context.load_verify_locations(arguments.tls_client_ca)
        files = {name: in_memory(Path(path)) for name, path in given.items() if path}
    except (OSError, ValueError) as error:  # SSLError is an OSError
        fail(
            f"TLS cannot be used: {error}; certificate and key are PEM files that fit, the key has no password"
        )
    return Tls(on=True, files=files)


def in_memory(path: Path) -> int:
    """Return a descriptor of a copy of a file, for a process that may not read the file itself."""
    descriptor = os.memfd_create(path.name[:200], os.MFD_CLOEXEC)
    with os.fdopen(os.dup(descriptor), "wb") as copy:
        copy.write(path.read_bytes())
    return descriptor


def worker(queue: str, threads: int) -> list[str]:
    """Return the command of a worker on one queue: quick verbs and long ones (builds, pulls) do not wait for each other."""
    argv = [
        "-m",
        "celery",
        "-q",
        "-A",
        "workers.celery_app",
        "worker",
        "-Q",
        queue,
        "-n",
        f"{queue}@%h",
        "--pool",
        "threads",
    ]
    argv += ["--concurrency", str(threads), "--loglevel", "WARNING"]
    return python(*argv, "--without-gossip", "--without-mingle", "--without-heartbeat")


class Supervisor:
    """Keeps the processes running until it is told to stop."""

    def __init__(self, home: Home, values: dict[str, str]) -> None:
        self._home = home
        self._values = values
        self._stopping = asyncio.Event()
        self._running: dict[str, asyncio.subprocess.Process] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def stop(self) -> None:
        self._stopping.set()

    @property
    def stopping(self) -> bool:
        return self._stopping.is_set()

    def watch(self, process: Process) -> None:
        """Start `process`, and again whenever it ends."""
        self._tasks.append(asyncio.create_task(self._keep(process)))

    async def wait(self) -> None:
        await self._stopping.wait()

    async def shut_down(self) -> None:
        """End all processes, the last started first; kill what does not end in time."""
        for name in reversed(list(self._running)):
            child = self._running[name]
            with contextlib.suppress(ProcessLookupError):
                child.terminate()
            try:
                await asyncio.wait_for(child.wait(), STOP_GRACE_S)
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    child.kill()
                await child.wait()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep(self, process: Process) -> None:
        pause = 0.2
        while not self.stopping:
            started = time.monotonic()
            status = await self._run(process)
            if self.stopping:
                return
            pause = 0.2 if time.monotonic() - started > 10 else min(pause * 2, 10.0)
            say(f"{process.name} ended with status {status}; starting it again in {pause:.1f} s")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)

    async def _run(self, process: Process) -> int:
        argv = process.argv if process.as_root else unprivileged(process.argv, self._home)
        child = await asyncio.create_subprocess_exec(
            *argv,
            env=self._values | process.environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=process.descriptors,
            start_new_session=True,
            limit=1024 * 1024,
        )
        self._running[process.name] = child
        assert child.stdout is not None
        try:
            while line := await child.stdout.readline():
                say(f"{process.name:<7}| {line.decode(errors='replace').rstrip()}")
        except ValueError:
            say(f"{process.name:<7}| (a line too long to show)")
        return await child.wait()


def one_shot(home: Home, values: dict[str, str], *argv: str) -> None:
    """Run a manage.py command as the account and stop everything if it fails."""
    result = subprocess.run(unprivileged(python("manage.py", *argv), home), env=values, cwd=ROOT, check=False)
    if result.returncode != 0:
        fail(f"manage.py {argv[0]} failed")


def make_node_key(home: Home, node: str, values: dict[str, str]) -> None:
    """Make the key that signs what is sent to the node, readable to root and the account."""
    code = "import sys, pathlib; from workers.keys import make_key; make_key(pathlib.Path(sys.argv[1]), sys.argv[2])"
    subprocess.run(python("-c", code, str(home.path), node), env=values, cwd=ROOT, check=True)


def listen(host: str, port: int, home: Home) -> list[socket.socket]:
    """Open the TCP port and the socket for the docker command (open to all: the peer's uid names the person)."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    tcp = socket.socket(family, socket.SOCK_STREAM)
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        tcp.bind((host, port))
    except OSError as error:
        fail(f"cannot listen on {host}:{port}: {error.strerror} (another port: script/server --port N)")
    tcp.listen(1024)
    home.docker_socket.unlink(missing_ok=True)
    local = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    local.bind(str(home.docker_socket))
    home.docker_socket.chmod(0o666)
    local.listen(256)
    return [tcp, local]


async def serve(home: Home, host: str, port: int, node: str, tls: Tls) -> None:
    values = environment(home, host, port)
    values.pop("WHARFINGER_TLS", None)
    if tls.on:
        values["WHARFINGER_TLS"] = "1"
    sockets = listen(host, port, home)
    supervisor = Supervisor(home, values)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, supervisor.stop)
    if values["REDIS_URL"] == f"unix://{home.redis_socket}":
        home.redis_socket.unlink(missing_ok=True)
        supervisor.watch(redis_process(home))
        await until(home.redis_socket.exists, "redis did not start", supervisor)
    make_node_key(home, node, values)
    await asyncio.to_thread(one_shot, home, values, "prepare")
    for process in processes(home, node, sockets, tls):
        supervisor.watch(process)
    address = f"{tls.scheme}://{f'[{host}]' if ':' in host else host}:{port}/"
    await until(lambda: answers(host, port, tls), "the web process did not answer", supervisor, timeout_s=60)
    if not supervisor.stopping:
        say(f"Wharfinger is at {address}")
        say("ready")
    await supervisor.wait()
    say("stopping; containers go on running")
    await supervisor.shut_down()
    home.docker_socket.unlink(missing_ok=True)


async def until(condition, problem: str, supervisor: Supervisor, timeout_s: float = 20) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + timeout_s
    while not supervisor.stopping and not await asyncio.to_thread(condition):
        if time.monotonic() > deadline:
            await supervisor.shut_down()
            fail(problem)
        await asyncio.sleep(0.05)


def answers(host: str, port: int, tls: Tls) -> bool:
    """Tell whether web answers. Its certificate need not be for the address that we ask at: nothing is told to it."""
    target = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    try:
        return opener.open(f"{tls.scheme}://{target}:{port}/healthz", timeout=2).status == 200
    except (urllib.error.URLError, OSError):
        return False


def manage(home: Home, argv: list[str]) -> None:
    """Run manage.py as the account with the server's settings (as is, where we are not root)."""
    values = environment(
        home, os.environ.get("WHARFINGER_HOST", "127.0.0.1"), int(os.environ.get("WHARFINGER_PORT") or 8000)
    )
    command = python("manage.py", *argv)
    if os.geteuid() == 0:
        home.make()
        command = unprivileged(command, home)
    os.chdir(ROOT)
    os.execvpe(command[0], command, values)


def say(text: str) -> None:
    print(text, flush=True)


def fail(text: str) -> None:
    print(f"wharfinger: {text}", file=sys.stderr, flush=True)
    raise SystemExit(1)


def main() -> None:
    if sys.argv[1:2] == ["--manage"]:
        manage(Home(home_path()), sys.argv[2:])
    parser = argparse.ArgumentParser(prog="script/server", description="Run Wharfinger in the foreground.")
    parser.add_argument("--port", type=int, default=int(os.environ.get("WHARFINGER_PORT") or 8000))
    parser.add_argument(
        "--host", default=os.environ.get("WHARFINGER_HOST", "127.0.0.1"), help="address to listen on"
    )
    tls = parser.add_argument_group("TLS", "each also as WHARFINGER_TLS, WHARFINGER_TLS_CERT and so on")
    for name, about in (
        ("cert", "certificate of this server, with those of its authorities (PEM)"),
        ("key", "its key (PEM, without a password)"),
        ("client-ca", "authority (PEM) whose client certificates people may register, besides our own"),
    ):
        variable = f"WHARFINGER_TLS_{name.upper().replace('-', '_')}"
        tls.add_argument(f"--tls-{name}", metavar="FILE", default=os.environ.get(variable, ""), help=about)
    tls.add_argument(
        "--tls",
        action="store_true",
        default=bool(os.environ.get("WHARFINGER_TLS")),
        help="speak TLS; without --tls-cert the certificate is signed by an authority of our own",
    )
    arguments = parser.parse_args()
    spoken = tls_of(arguments)
    home = Home(home_path())
    home.make()
    lock = os.open(home.path / "server.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        fail(f"another server already runs on {home.path}")
    node = os.environ.get("WHARFINGER_NODE", "local")
    asyncio.run(serve(home, arguments.host, arguments.port, node, spoken))


def home_path() -> Path:
    return Path(os.environ.get("WHARFINGER_HOME") or "/var/lib/wharfinger").resolve()


if __name__ == "__main__":
    main()
