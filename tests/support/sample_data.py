"""Records of a small team's server, for tests and pictures of pages: what nodes, people and builds would have left behind.

`fill()` writes them through the same functions that the relay uses; `node_answers()` is what a node would say when asked.
Names and figures are made up; nothing here is needed by the product.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from typing import Any

from django.utils import timezone

from webapp.accounts import services as accounts
from webapp.accounts.actor import SYSTEM, Actor
from webapp.accounts.models import User
from webapp.audit import services as audit
from webapp.audit.models import Face, Outcome, Recording
from webapp.builds.models import Build
from webapp.containers import records as container_records
from webapp.containers.models import Container
from webapp.core.sealing import seal
from webapp.images import records as image_records
from webapp.networks import records as network_records
from webapp.nodes.models import Event, Node
from webapp.operations.models import Operation
from webapp.registries.models import Registry
from webapp.volumes import records as volume_records
from webapp.volumes.models import Backup, Volume

PASSWORD = "a long enough password"
MB, GB = 1_000_000, 1_000_000_000
DOCKERFILE = """\
FROM maven:3.9-eclipse-temurin-21 AS deps
WORKDIR /src
COPY pom.xml .
RUN mvn -q dependency:go-offline

FROM deps AS build
COPY . .
RUN mvn -q package -DskipTests

FROM deps AS test
COPY src src
RUN mvn -q test

FROM eclipse-temurin:21-jre
RUN useradd --uid 1000 app
COPY --from=build /src/target/app.jar /app/
USER app
EXPOSE 8000
CMD ["java", "-jar", "/app/app.jar"]
"""


def fill() -> dict[str, Any]:
    """Write the records; return what tests want to have in hand."""
    people = _people()
    node = _node("quay-1", is_default=True)
    second = _node("quay-2", is_default=False)
    networks = _networks(node)
    images = _images(node)
    containers = _containers(node, second, networks, people)
    volumes = _volumes(node, people)
    operations = _operations(node, containers, people)
    builds = _builds(node, people, images)
    _registries(people)
    _book(people, containers, operations)
    _events(node, containers)
    _recordings(containers)
    return {
        "people": people,
        "node": node,
        "containers": containers,
        "images": images,
        "volumes": volumes,
        "operations": operations,
        "builds": builds,
    }


def people_and_node() -> dict[str, Any]:
    """Write people and a node only: the site on its first day."""
    return {"people": _people(), "node": _node("quay-1", is_default=True)}


def _ago(**span: float) -> datetime.datetime:
    return timezone.now() - datetime.timedelta(**span)


def _id(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


# --- people ---------------------------------------------------------------------------------------------------


def _people() -> dict[str, User]:
    roles = {
        "admin": "admin",
        "operator": "operator",
        "oncall": "operator",
        "viewer": "viewer",
        "ci": "operator",
    }
    people = {}
    for name, role in roles.items():
        people[name] = accounts.user_create(SYSTEM, username=name, password=PASSWORD, role=role)
    actor = Actor(user=people["ci"], face=Face.REST, address="10.20.0.3")
    accounts.token_create(
        actor, name="pipeline", scope="operate", expires_at=timezone.now() + datetime.timedelta(days=60)
    )
    accounts.token_create(
        Actor(user=people["operator"], face=Face.PAGE, address="10.20.0.11"), name="laptop", scope="operate"
    )
    return people


# --- nodes ----------------------------------------------------------------------------------------------------


def _node(name: str, *, is_default: bool) -> Node:
    return Node.objects.create(
        name=name,
        is_default=is_default,
        seen_at=timezone.now() + datetime.timedelta(days=1),  # stays online however slow the test is
        confirmed_at=_ago(seconds=2),
        epoch=_id(name)[:32],
        seq=48211,
        info={
            "version": "0.1.0", "runtime": "crun",
            "runtime_version": "1.8.1", "conmon_version": "2.1.6", "storage_driver": "overlay", "kernel": "6.1.0-18-amd64",
            "operating_system": "Debian GNU/Linux 12", "architecture": "amd64", "cpus": 8, "memory_bytes": 16 * GB, "cgroup_version": 2,
            "disk_total_bytes": 120 * GB, "disk_free_bytes": 58 * GB, "user_namespaces": True,
        },
    )  # fmt: skip


def _networks(node: Node) -> dict[str, str]:
    subnets = {
        "bridge": "10.88.0.0/16",
        "leafy-network": "10.89.4.0/24",
        "leafy-staging-network": "10.89.5.0/24",
        "observability": "10.89.6.0/24",
    }
    for name, subnet in subnets.items():
        labels = {"com.docker.compose.project": "leafy"} if name == "leafy-network" else {}
        network_records.apply(node, {
            "id": _id(f"network {name}"), "name": name, "driver": "bridge", "labels": labels, "created_at": _ago(days=41).timestamp(),
            "subnets": [{"subnet": subnet, "gateway": subnet.rsplit(".", 1)[0] + ".1"}], "internal": False,
        })  # fmt: skip
    return {name: _id(f"network {name}") for name in subnets}


# --- containers -----------------------------------------------------------------------------------------------


def container_record(name: str, image: str = "debian:12", **changes: Any) -> dict[str, Any]:
    """Return an engine's record of a container; `changes` replace its parts (`spec` is merged)."""
    spec = {
        "image": image, "name": name, "env": {}, "labels": {}, "network_mode": "bridge", "restart": {"name": "no", "maximum_retry_count": 0},
        "resources": {"memory_bytes": 512 * 1024**2, "cpus": 2.0, "pids_limit": 512}, "tty": False, "privileged": False, "userns_mode": "",
    }  # fmt: skip
    spec |= changes.pop("spec", {})
    record = {
        "id": _id(f"container {name}"), "name": name, "spec": spec, "image": image, "image_id": f"sha256:{_id(f'image {image}')}",
        "status": "running", "created_at": _ago(days=3).timestamp(), "started_at": _ago(days=3).timestamp(), "finished_at": 0, "pid": 4242,
        "exit_code": 0, "oom_killed": False, "error": "", "restart_count": 0, "path": "/usr/bin/app", "args": ["serve"],
        "config": {"Env": ["PATH=/usr/local/bin:/usr/bin:/bin"], "Cmd": ["serve"], "Entrypoint": ["/usr/bin/app"], "ExposedPorts": {}},
        "endpoints": [], "ports": [], "mounts": [], "health": {"status": "none", "failing_streak": 0, "log": []}, "generation": 1,
    }  # fmt: skip
    return record | changes


def endpoint(network: str, address: str, *aliases: str) -> dict[str, Any]:
    return {
        "network_id": _id(f"network {network}"), "network": network, "aliases": list(aliases), "ipv4_address": address, "ipv4_prefix": 24,
        "gateway": address.rsplit(".", 1)[0] + ".1", "mac_address": "02:42:0a:59:04:02",
    }  # fmt: skip


def _port(outer: int, inner: int) -> dict[str, Any]:
    return {"container_port": inner, "protocol": "tcp", "host_ip": "0.0.0.0", "host_port": outer}


def _volume(name: str, target: str) -> dict[str, Any]:
    return {
        "type": "volume",
        "target": target,
        "source": f"/volumes/{name}",
        "name": name,
        "read_only": False,
        "anonymous": False,
    }


def _compose(project: str, service: str) -> dict[str, Any]:
    return {
        "labels": {"com.docker.compose.project": project, "com.docker.compose.service": service},
        "restart": {"name": "unless-stopped", "maximum_retry_count": 0},
    }


def _containers(
    node: Node, second: Node, networks: dict[str, str], people: dict[str, User]
) -> dict[str, Container]:
    healthy = {
        "status": "healthy",
        "failing_streak": 0,
        "log": [
            {
                "started_at": _ago(seconds=5).timestamp(),
                "finished_at": _ago(seconds=4).timestamp(),
                "exit_code": 0,
                "output": "",
            }
        ],
    }
    failing = {
        "status": "unhealthy",
        "failing_streak": 6,
        "log": [
            {
                "started_at": _ago(seconds=9).timestamp(),
                "finished_at": _ago(seconds=8).timestamp(),
                "exit_code": 1,
                "output": "GET /healthz answered 502: its backend is restarting",
            }
        ],
    }
    check = {"healthcheck": {"test": ["CMD-SHELL", "curl -f http://localhost/healthz"], "interval_s": 10}}
    rows = [
        (node, "operator", container_record(
            "leafy-backend", "127.0.0.1:5000/leafy/backend:2.4.1", health=healthy, endpoints=[endpoint("leafy-network", "10.89.4.3", "backend")],
            mounts=[_volume("leafy-uploads", "/app/uploads")], spec=_compose("leafy", "backend") | check | {"env": {"DB_URL": "leafy-postgres"}, "user": "app"},
            config={"Env": ["PATH=/usr/local/bin:/usr/bin:/bin", "JAVA_HOME=/opt/java", "DB_URL=leafy-postgres"], "Cmd": ["java", "-jar", "/app/app.jar"], "Entrypoint": [], "ExposedPorts": {"8000/tcp": {}}},
            path="java", args=["-jar", "/app/app.jar"])),
        (node, "operator", container_record("leafy-front", "127.0.0.1:5000/leafy/front:2.4.1", ports=[_port(8080, 80)], endpoints=[endpoint("leafy-network", "10.89.4.4", "front")], spec=_compose("leafy", "front"))),
        (node, "admin", container_record("leafy-postgres", "postgres:16.4", endpoints=[endpoint("leafy-network", "10.89.4.2", "db")], mounts=[_volume("leafy-data", "/var/lib/postgresql/data")], spec=_compose("leafy", "postgres"), started_at=_ago(days=12).timestamp())),
        (node, "ci", container_record("leafy-backend-staging", "127.0.0.1:5000/leafy/backend:2.5.0-rc.1", status="restarting", restart_count=4, exit_code=137, oom_killed=True, finished_at=_ago(seconds=38).timestamp(), endpoints=[endpoint("leafy-staging-network", "10.89.5.3")], spec=_compose("leafy-staging", "backend") | {"resources": {"memory_bytes": 256 * 1024**2}})),
        (node, "ci", container_record("leafy-front-staging", "127.0.0.1:5000/leafy/front:2.5.0-rc.1", health=failing, ports=[_port(8081, 80)], endpoints=[endpoint("leafy-staging-network", "10.89.5.4")], spec=_compose("leafy-staging", "front") | check, started_at=_ago(hours=3).timestamp())),
        (node, "operator", container_record("leafy-postgres-staging", "postgres:16.4", status="paused", endpoints=[endpoint("leafy-staging-network", "10.89.5.2")], mounts=[_volume("leafy-staging-data", "/var/lib/postgresql/data")], spec=_compose("leafy-staging", "postgres"))),
        (second, "admin", container_record("scraper", "prom/prometheus:2.54.1", ports=[_port(9090, 9090)], endpoints=[endpoint("observability", "10.89.6.2")], mounts=[_volume("scraper-series", "/prometheus")], spec=_compose("observability", "scraper"))),
        (node, "oncall", container_record("hellonginx", "nginx:1.27", ports=[_port(8088, 80)], endpoints=[endpoint("bridge", "10.88.0.4")], started_at=_ago(minutes=14).timestamp())),
        (node, "ci", container_record("report-export", "tools/report:0.9.4", status="exited", exit_code=1, started_at=_ago(minutes=22, seconds=3).timestamp(), finished_at=_ago(minutes=22).timestamp())),
        (node, "operator", container_record("leafy-migrate", "127.0.0.1:5000/leafy/backend:2.4.1", status="exited", exit_code=0, finished_at=_ago(days=3).timestamp())),
        (node, "ci", container_record("load-probe", "grafana/k6:0.54.0", status="creating", started_at=0, created_at=_ago(seconds=9).timestamp())),
    ]  # fmt: skip
    made = {}
    for place, who, record in rows:
        container = container_records.apply(place, record)
        assert container is not None
        Container.objects.filter(pk=container.pk).update(created_by=people[who])
        made[container.name] = Container.objects.get(pk=container.pk)
    return made


# --- images and volumes ---------------------------------------------------------------------------------------


def image_record(name: str, size: int, *layers: tuple[str, int], **config: Any) -> dict[str, Any]:
    """Return an engine's record of an image; `layers` are (instruction, bytes)."""
    history = [
        {"created": _ago(days=9).isoformat(), "created_by": text, "empty_layer": amount == 0}
        for text, amount in layers
    ]
    diff_ids = [f"sha256:{_id(text)}" for text, amount in layers if amount]
    return {
        "id": f"sha256:{_id(f'image {name}')}", "names": [_full(name)], "repo_digests": [f"{_full(name).rsplit(':', 1)[0]}@sha256:{_id(name)}"],
        "size": size, "created": _ago(days=3).timestamp(),
        "config": {"os": "linux", "architecture": "amd64", "created": _ago(days=3).isoformat(), "config": config, "rootfs": {"diff_ids": diff_ids}, "history": history},
        "layers": [{"digest": f"sha256:{_id('z' + text)}", "diff_id": f"sha256:{_id(text)}", "size": amount // 3, "size_bytes": amount} for text, amount in layers if amount],
    }  # fmt: skip


def _full(name: str) -> str:
    if name.startswith(("127.0.0.1", "localhost")):
        return name
    return f"docker.io/{name if '/' in name else f'library/{name}'}"


BASE = ("ADD rootfs of debian:12-slim", 74_800_000)
JAVA = ("RUN curl -L … | tar -xz -C /opt/java", 187_000_000)


def _images(node: Node) -> list[Any]:
    layers = [
        BASE, ("RUN apt-get install ca-certificates fontconfig locales", 42_100_000), JAVA, ("RUN useradd --uid 1000 app", 4_100),
        ("COPY --from=build /src/target /app", 66_200_000), ("RUN rm -rf /app/classes /app/surefire-reports", 0),
        ("RUN chown -R app /app/config", 3_800_000), ('CMD ["java" "-jar" "/app/app.jar"]', 0),
    ]  # fmt: skip
    run = {
        "Env": ["PATH=/usr/local/bin:/usr/bin:/bin", "JAVA_HOME=/opt/java"],
        "ExposedPorts": {"8000/tcp": {}},
        "Cmd": ["java", "-jar", "/app/app.jar"],
        "User": "app",
        "WorkingDir": "/app",
    }
    postgres = {
        "Env": ["PATH=/usr/lib/postgresql/16/bin:/usr/bin:/bin", "PGDATA=/var/lib/postgresql/data"],
        "ExposedPorts": {"5432/tcp": {}},
        "Volumes": {"/var/lib/postgresql/data": {}},
        "Cmd": ["postgres"],
        "Entrypoint": ["docker-entrypoint.sh"],
    }
    rows = [
        image_record("127.0.0.1:5000/leafy/backend:2.4.1", 373_900_000, *layers, **run),
        image_record("127.0.0.1:5000/leafy/backend:2.5.0-rc.1", 380_100_000, *layers, ("COPY fix /app", 6_200_000), **run),
        image_record("127.0.0.1:5000/leafy/front:2.4.1", 46_300_000, BASE, ("COPY --from=build /web /usr/share/nginx/html", 8_200_000)),
        image_record("postgres:16.4", 432_000_000, BASE, ("RUN apt-get install postgresql-16", 340_000_000), **postgres),
        image_record("nginx:1.27", 188_000_000, BASE, ("RUN apt-get install nginx", 112_000_000), ExposedPorts={"80/tcp": {}}, Cmd=["nginx", "-g", "daemon off;"]),
        image_record("grafana/k6:0.54.0", 61_900_000, BASE),
        image_record("tools/report:0.9.4", 91_000_000, BASE),
        image_record("debian:12", 117_000_000, BASE),
    ]  # fmt: skip
    found = [image_records.apply(node, row) for row in rows]
    nameless = image_record("old", 371_000_000, *layers) | {"names": []}
    return [*found, image_records.apply(node, nameless)]


def _volumes(node: Node, people: dict[str, User]) -> list[Volume]:
    rows = [
        ("leafy-data", 14.2 * GB, 2 / 24), ("registry-blobs", 5.8 * GB, 0.5), ("leafy-staging-data", 1.8 * GB, 0.1), ("scraper-series", 1.0 * GB, None),
        ("leafy-data-2024", 0.9 * GB, 292), ("leafy-uploads", 640 * MB, 0.5), ("k6-results", 212 * MB, None),
    ]  # fmt: skip
    made = []
    for name, size, backed_up_days in rows:
        record = {
            "name": name,
            "driver": "local",
            "created_at": _ago(days=60).timestamp(),
            "size_bytes": int(size),
            "labels": {},
            "used_at": _ago(hours=1).timestamp(),
        }
        volume = volume_records.apply(node, record)
        Volume.objects.filter(pk=volume.pk).update(created_by=people["admin"])
        made.append(volume)
        if backed_up_days is not None:
            Backup.objects.create(
                node=node, volume=name, status="ready", proven=True, size_bytes=int(size / 3), content_bytes=int(size), entries=4812,
                digest=f"sha256:{_id(name)}", created_at=_ago(days=backed_up_days), created_by=people["admin"],
            )  # fmt: skip
    Backup.objects.create(
        node=node, volume="leafy-data", status="failed", created_at=_ago(days=1.5), operation=""
    )
    return made


# --- work -----------------------------------------------------------------------------------------------------


def _operation(
    node: Node,
    user: User,
    kind: str,
    status: str,
    name: str,
    *,
    began: float,
    lasted: float = 1.2,
    **more: Any,
) -> Operation:
    finished = status in ("succeeded", "failed", "cancelled")
    return Operation.objects.create(
        kind=kind, node=node, status=status, target_type=kind.split(".")[0], target=name, target_id=more.pop("target_id", _id(f"{kind.split('.')[0]} {name}")),
        user=user, actor={"name": user.username, "id": user.pk, "token": "", "token_id": None, "address": "10.20.0.11", "face": "page"},
        created_at=_ago(seconds=began), sent_at=_ago(seconds=began), started_at=None if status == "queued" else _ago(seconds=began - 0.1),
        finished_at=_ago(seconds=began - lasted) if finished else None, **more,
    )  # fmt: skip


def _operations(node: Node, containers: dict[str, Container], people: dict[str, User]) -> list[Operation]:
    layers = {
        "a3ed95caeb02": ("exists", 0, 0), "4abcf2066143": ("done", 3_400_000, 3_400_000), "9f2a1b7c0de4": ("extracting", 8_100_000, 8_100_000),
        "c4d8e0f19b33": ("downloading", 21_600_000, 37_100_000), "1e7706af52d8": ("downloading", 8_700_000, 21_200_000), "77b0c19de4f2": ("waiting", 0, 900_000),
    }  # fmt: skip
    progress = {
        "layers": {
            key: {"id": key, "status": s, "current": c, "total": t} for key, (s, c, t) in layers.items()
        },
        "message": "",
    }
    error = {
        "code": "port_taken",
        "detail": "port 8080 on quay-1 is taken by python3 (pid 31207)",
        "hint": "publish another port, or stop the other program",
        "context": {"port": 8080},
    }
    return [
        _operation(node, people["ci"], "image.pull", "running", "grafana/k6:0.54.0", began=9, progress=progress),
        _operation(node, people["ci"], "container.create", "queued", "load-probe", began=8, target_id=containers["load-probe"].pk),
        _operation(node, people["operator"], "container.start", "failed", "leafy-front-canary", began=400, error=error),
        _operation(node, people["operator"], "container.pause", "succeeded", "leafy-postgres-staging", began=840, lasted=0.04, target_id=containers["leafy-postgres-staging"].pk),
        _operation(node, people["admin"], "volume.backup", "succeeded", "leafy-data", began=7200, lasted=38),
        _operation(node, people["oncall"], "image.push", "cancelled", "127.0.0.1:5000/leafy/front:2.5.0-rc.1", began=9000, lasted=4),
    ]  # fmt: skip


def _step(
    stage: str,
    index: str,
    line: int,
    name: str,
    status: str,
    reason: str = "",
    duration: float = 0.0,
    size: int = 0,
) -> dict[str, Any]:
    return {
        "type": "stepprogress",
        "id": index,
        "status": status,
        "stage": stage,
        "name": name,
        "line": line,
        "reason": reason,
        "duration_s": duration,
        "image_id": "",
        "size_bytes": size,
    }


def build_plan() -> list[dict[str, Any]]:
    def stage(
        index: int,
        name: str,
        base: str,
        line: int,
        base_stage: int | None,
        needs: list[int],
        target: bool,
        *steps: tuple[int, str],
    ) -> dict[str, Any]:
        shown = [
            {"id": f"{index}.{number}", "name": text, "line": at} for number, (at, text) in enumerate(steps)
        ]
        kind = "image" if base_stage is None else "stage"
        return {
            "index": index,
            "name": name,
            "base": base,
            "base_kind": kind,
            "base_stage": base_stage,
            "platform": "linux/amd64",
            "needs": needs,
            "images": [],
            "line": line,
            "steps": shown,
            "target": target,
        }

    return [
        stage(0, "deps", "maven:3.9-eclipse-temurin-21", 1, None, [], False, (1, "FROM maven:3.9-eclipse-temurin-21 AS deps"), (2, "WORKDIR /src"), (3, "COPY pom.xml ."), (4, "RUN mvn -q dependency:go-offline")),
        stage(1, "build", "deps", 6, 0, [0], False, (6, "FROM deps AS build"), (7, "COPY . ."), (8, "RUN mvn -q package -DskipTests")),
        stage(3, "stage-3", "eclipse-temurin:21-jre", 14, None, [1], True, (14, "FROM eclipse-temurin:21-jre"), (15, "RUN useradd --uid 1000 app"), (16, "COPY --from=build /src/target/app.jar /app/"), (17, "USER app"), (18, "EXPOSE 8000"), (19, 'CMD ["java", "-jar", "/app/app.jar"]')),
    ]  # fmt: skip


def build_steps(done: bool) -> list[dict[str, Any]]:
    return [
        _step("deps", "0.0", 1, "FROM maven:3.9-eclipse-temurin-21", "cached"), _step("deps", "0.1", 2, "WORKDIR /src", "cached"),
        _step("deps", "0.2", 3, "COPY pom.xml .", "cached"), _step("deps", "0.3", 4, "RUN mvn -q dependency:go-offline", "cached"),
        _step("build", "1.1", 7, "COPY . .", "done", "3 files differ: Orders.java, README.md, .git/index", 0.6, 31_900_000),
        _step("build", "1.2", 8, "RUN mvn -q package -DskipTests", "done" if done else "running", "the step before was built again", 58 if done else 0, 34_600_000 if done else 0),
        _step("stage-3", "3.0", 14, "FROM eclipse-temurin:21-jre", "done", "the tag moved since yesterday", 6.1, 229_000_000),
        _step("stage-3", "3.1", 15, "RUN useradd --uid 1000 app", "done", "the step before was built again", 0.4, 4_100),
        _step("stage-3", "3.2", 16, "COPY --from=build /src/target/app.jar /app/", "done" if done else "waiting", "", 0.2 if done else 0, 34_600_000 if done else 0),
        _step("stage-3", "3.3", 17, "USER app", "done" if done else "waiting"), _step("stage-3", "3.4", 18, "EXPOSE 8000", "done" if done else "waiting"),
        _step("stage-3", "3.5", 19, 'CMD ["java", "-jar", "/app/app.jar"]', "done" if done else "waiting"),
    ]  # fmt: skip


def build_advice() -> list[dict[str, Any]]:
    return [
        {"rule": "smaller-base", "line": 14, "size_bytes": 187_000_000, "severity": "info", "message": "eclipse-temurin:21-jre-alpine has the same Java and is smaller"},
        {"rule": "ignore-file", "line": 7, "size_bytes": 28_000_000, "severity": "warning", "message": "target/ and .git/ are sent and change at every build; name them in .dockerignore"},
        {"rule": "no-user", "line": 0, "size_bytes": 0, "severity": "info", "message": "the image runs as root; end with USER"},
    ]  # fmt: skip


def _builds(node: Node, people: dict[str, User], images: list[Any]) -> dict[str, Build]:
    made = {}
    for name, status, began, lasted in (
        ("running", "running", 72, 0),
        ("done", "succeeded", 86400, 110),
        ("failed", "failed", 90000, 41),
    ):
        error = (
            {
                "code": "command_failed",
                "detail": "line 8: RUN mvn -q package -DskipTests ended with code 1",
                "hint": "its last lines say why",
                "context": {"line": 8},
            }
            if status == "failed"
            else {}
        )
        tag = "leafy/backend:2.5.0-rc.2" if name != "done" else "leafy/backend:2.4.1"
        operation = _operation(
            node, people["operator"], "build.run", status, tag, began=began, lasted=lasted, error=error
        )
        image = images[0] if name == "done" else None
        made[name] = Build.objects.create(
            operation=operation, dockerfile=DOCKERFILE, context_size_bytes=4_200_000, tags=[tag], plan=build_plan(), created_at=_ago(seconds=began),
            steps=build_steps(name == "done"), advice=build_advice() if name == "done" else [], image_id=image.image_id if image else "", size_bytes=373_900_000 if image else 0,
        )  # fmt: skip
    return made


# --- the rest -------------------------------------------------------------------------------------------------


def _registries(people: dict[str, User]) -> None:
    Registry.objects.create(
        host="docker.io",
        username="leafy-team",
        sealed_secret=seal({"secret": "made up"}),
        created_by=people["admin"],
        used_at=_ago(hours=3),
    )
    Registry.objects.create(
        host="127.0.0.1:5000",
        username="pusher",
        sealed_secret=seal({"secret": "made up"}),
        insecure=True,
        created_by=people["admin"],
        used_at=_ago(minutes=9),
    )


def _book(people: dict[str, User], containers: dict[str, Container], operations: list[Operation]) -> None:
    """Write entries of all kinds: done, under way, refused and failed, by every face."""
    audit.record(_who(people, "admin"), "session.open", target_type="user", target="admin")
    _book_creation(people, containers["leafy-backend"], operations[3])
    _book_verbs(people, containers, operations)
    _book_images(people, operations)


def _who(people: dict[str, User], name: str, face: str = Face.PAGE) -> Actor:
    return Actor(user=people[name], face=face, address="10.20.0.11")


def _on(container: Container) -> dict[str, str]:
    return {"target_type": "container", "target_id": container.pk, "target": container.name}


def _book_creation(people: dict[str, User], backend: Container, operation: Operation) -> None:
    operator, wanted = _who(people, "operator"), {"image": backend.image, "env": {"DB_PASSWORD": "••••"}}
    audit.record(
        operator, "container.create", outcome=Outcome.ACCEPTED, node="quay-1", body=wanted, **_on(backend)
    )
    audit.record(operator, "container.create", node="quay-1", operation=operation.pk, **_on(backend))


def _book_verbs(
    people: dict[str, User], containers: dict[str, Container], operations: list[Operation]
) -> None:
    audit.record(
        _who(people, "oncall"), "terminal.open", node="quay-1", body={"command": ["psql", "-d", "leafy"]},
        **_on(containers["leafy-postgres"]),
    )  # fmt: skip
    audit.record(
        _who(people, "operator", Face.DOCKER), "container.pause", outcome=Outcome.ACCEPTED, node="quay-1",
        operation=operations[3].pk, **_on(containers["leafy-postgres-staging"]),
    )  # fmt: skip
    audit.record(
        _who(people, "viewer", Face.DOCKER), "container.stop", outcome=Outcome.REFUSED, detail="needs the permission operate",
        body={"t": 10}, **_on(containers["leafy-front"]),
    )  # fmt: skip
    audit.record(
        _who(people, "operator"), "container.start", outcome=Outcome.FAILED, target_type="container", target="leafy-front-canary",
        node="quay-1", operation=operations[2].pk, detail="port 8080 is taken",
    )  # fmt: skip


def _book_images(people: dict[str, User], operations: list[Operation]) -> None:
    audit.record(
        _who(people, "oncall"), "image.push", outcome=Outcome.ACCEPTED, target_type="image",
        target="127.0.0.1:5000/leafy/front:2.5.0-rc.1", node="quay-1", operation=operations[5].pk,
    )  # fmt: skip
    audit.record(
        _who(people, "ci", Face.REST), "image.pull", outcome=Outcome.ACCEPTED, target_type="image", target="grafana/k6:0.54.0",
        node="quay-1", operation=operations[0].pk,
    )  # fmt: skip


def _events(node: Node, containers: dict[str, Container]) -> None:
    backend, staging = containers["leafy-backend"], containers["leafy-backend-staging"]
    rows = [
        (backend, "create", 3 * 86400, {}), (backend, "start", 3 * 86400 - 1, {}), (backend, "health_status: healthy", 3 * 86400 - 12, {}),
        (staging, "start", 170, {}), (staging, "oom", 132, {}), (staging, "die", 131, {"exitCode": "137", "execDuration": 38}),
        (staging, "start", 90, {}), (staging, "oom", 39, {}), (staging, "die", 38, {"exitCode": "137", "execDuration": 51}),
    ]  # fmt: skip
    for seq, (container, action, ago, attributes) in enumerate(rows, start=1):
        Event.objects.create(
            node=node,
            epoch=node.epoch,
            seq=seq,
            at=_ago(seconds=ago),
            type="container",
            action=action,
            subject=container.pk,
            attributes={"name": container.name, **attributes},
        )


def _recordings(containers: dict[str, Container]) -> None:
    postgres = containers["leafy-postgres"]
    for name, who, command, ago, lasted in (
        ("a" * 32, "oncall", "psql -d leafy", 1860, 380),
        ("b" * 32, "operator", "bash", 90000, 48),
    ):
        Recording.objects.create(
            id=name, username=who, container_id=postgres.pk, container_name=postgres.name, command=command, started_at=_ago(seconds=ago),
            finished_at=_ago(seconds=ago - lasted), size_bytes=18_400, sha256=_id(name),
        )  # fmt: skip


RECORDING = "\n".join([
    json.dumps({"version": 2, "width": 80, "height": 24}),
    json.dumps([0.2, "o", "\x1b[32mpostgres@leafy-postgres\x1b[0m:\x1b[34m~\x1b[0m$ "]),
    *(json.dumps([0.8 + number * 0.1, "o", letter]) for number, letter in enumerate("psql -d leafy -c 'select 1'")),
    json.dumps([4.0, "o", "\r\n ?column? \r\n----------\r\n        1\r\n(1 row)\r\n"]),
]) + "\n"  # fmt: skip


def _file(
    path: str, kind: str = "file", *, size: int = 0, change: str = "added", hidden: bool = False
) -> dict[str, Any]:
    return {
        "path": path,
        "kind": kind,
        "size": size,
        "mode": 0o644,
        "uid": 0,
        "gid": 0,
        "mtime": 0,
        "change": change,
        "link": "",
        "hidden": hidden,
    }


def node_answers() -> dict[str, Any]:
    """Return what a node answers to questions, by kind (for `RecordingSender.answers`)."""
    layers = [
        BASE,
        ("RUN apt-get install ca-certificates fontconfig locales", 42_100_000),
        JAVA,
        ("RUN useradd --uid 1000 app", 4_100),
        ("COPY --from=build /src/target /app", 66_200_000),
        ("RUN chown -R app /app/config", 3_800_000),
    ]
    usage = {
        "images": {"count": 9, "size_bytes": 22_400_000_000, "reclaimable_bytes": 6_100_000_000}, "containers": {"count": 11, "size_bytes": 2_200_000_000, "reclaimable_bytes": 300_000_000},
        "volumes": {"count": 7, "size_bytes": 23_100_000_000, "reclaimable_bytes": 1_100_000_000}, "build_cache": {"count": 214, "size_bytes": 13_600_000_000, "reclaimable_bytes": 9_000_000_000},
    }  # fmt: skip
    now = timezone.now().timestamp()
    return {
        "system.info": {"version": "0.1.0", "runtime": "crun 1.8.1"},
        "system.usage": usage,
        "container.top": {"titles": ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"], "processes": [["101000", "4242", "4230", "6", "09:12", "?", "00:41:12", "java -jar /app/app.jar"], ["101000", "4311", "4242", "0", "09:12", "?", "00:00:02", "sh -c sleep 60"]]},
        "container.changes": {"changes": [{"kind": "C", "path": "/app"}, {"kind": "A", "path": "/app/heap-2026-11-23.hprof"}, {"kind": "C", "path": "/tmp"}, {"kind": "A", "path": "/tmp/hsperfdata_app"}, {"kind": "D", "path": "/etc/motd"}]},
        "container.list_files": {"entries": [
            {"name": "app", "mode": 0o040755, "size_bytes": 4096, "mtime": now - 90000}, {"name": "etc", "mode": 0o040755, "size_bytes": 4096, "mtime": now - 900000},
            {"name": "bin", "mode": 0o120777, "size_bytes": 7, "mtime": now - 900000, "link_target": "usr/bin"}, {"name": "entrypoint.sh", "mode": 0o100755, "size_bytes": 2210, "mtime": now - 90000},
        ]},
        "container.timeline": {"events": []},
        "kept_log.list": {"logs": [{"id": _id("leafy-import"), "name": "leafy-import", "image": "leafy/backend:2.4.1", "removed_at": now - 86400, "size_bytes": 1_204_000}]},
        "image.layers": {"layers": [
            {"index": index, "created_by": text, "unpacked": True, "shared_with": [_id("other")] * 4 if index < 3 else [], "layer": {
                "chain": f"sha256:{_id('c' + text)}", "diff_id": f"sha256:{_id(text)}", "size": amount, "descriptor": {"digest": f"sha256:{_id('z' + text)}", "size": amount // 3},
            }} for index, (text, amount) in enumerate(layers)
        ]},
        "image.layer_files": {"files": [
            _file("app", "directory"), _file("app/app.jar", size=34_600_000), _file("app/classes", "directory", hidden=True),
            _file("app/classes/leafy.class", size=28_700_000, hidden=True), _file("app/config", "directory", change="changed"),
            _file("app/config/logback.xml", size=2_000, change="changed"), _file("etc", "directory", change="changed"), _file("etc/motd", change="removed"),
        ]},
        "image.search": {"results": [{"name": "nginx", "description": "Official build of Nginx.", "stars": 20412, "is_official": True}, {"name": "bitnami/nginx", "description": "Bitnami container image for NGINX", "stars": 197, "is_official": False}]},
        "volume.browse": {"entries": [{"name": "base", "mode": 0o040700, "size_bytes": 4096, "mtime": now - 60}, {"name": "PG_VERSION", "mode": 0o100600, "size_bytes": 3, "mtime": now - 900000}, {"name": "postgresql.conf", "mode": 0o100600, "size_bytes": 29_770, "mtime": now - 900000}]},
        "network.probe": {
            "target": "leafy-postgres",
            "port": 5433,
            "protocol": "tcp",
            "outcome": "refused",
            "detail": "nothing listens on port 5433 of 10.89.4.2",
            "hint": "leafy-postgres listens on 5432",
            "addresses": ["10.89.4.2"],
            "resolve_s": 0.0003,
            "attempts": [{"address": "10.89.4.2", "outcome": "refused", "duration_s": 0.0002}],
        },
        "operation.log": {"entries": [{"type": "message", "text": "resolving grafana/k6:0.54.0", "at": now - 8}, {"type": "layerprogress", "id": "4abcf2066143", "status": "done", "current": 3400000, "total": 3400000, "at": now - 4}], "offset": 0, "size_bytes": 100, "end": True},
    }  # fmt: skip
