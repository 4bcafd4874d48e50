"""Dockerfiles in the style of common projects. Package managers are played by one script, since there is no internet here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.support.building import BuildNode, build_node

pytestmark = pytest.mark.root

# what each tool leaves behind, so that later instructions find what they expect
_TOOL = """#!/bin/sh
set -e
case "$(basename "$0") $*" in
  *"npm ci"*|*"npm install"*|*"yarn"*|*"pnpm install"*) mkdir -p node_modules/lib && echo lib > node_modules/lib/index.js ;;
  *"npm run build"*) mkdir -p dist && echo "<html>" > dist/index.html ;;
  *"mvn "*|*"gradle "*) mkdir -p target && echo jar > target/app.jar ;;
  *"cargo build"*) mkdir -p target/release && echo bin > target/release/app && chmod +x target/release/app ;;
  *"go build"*) out=; o=0; for a in "$@"; do [ "$o" = 1 ] && out="$a"; o=0; [ "$a" = -o ] && o=1 || true; done; echo "#!/bin/sh" > "$out"; chmod +x "$out" ;;
  *"pip install"*) mkdir -p /usr/local/lib/python/site-packages && echo pkg > /usr/local/lib/python/site-packages/flask.py ;;
  *"-m venv "*) for last; do :; done; mkdir -p "$last/bin" && cp "$0" "$last/bin/pip" ;;
  *"composer install"*) mkdir -p vendor && echo php > vendor/autoload.php ;;
  *"bundle install"*) mkdir -p /usr/local/bundle && echo gem > /usr/local/bundle/rails.rb ;;
  *"dotnet publish"*) mkdir -p /app/out && echo dll > /app/out/app.dll ;;
  *"apt-get update"*) mkdir -p /var/lib/apt/lists && echo list > /var/lib/apt/lists/list ;;
  *) : ;;
esac
echo "$(basename "$0") $*"
"""
_NAMES = "apt-get apk dnf npm yarn pnpm mvn gradle go cargo pip python3 composer bundle dotnet curl useradd groupadd gosu tini"
_IMAGES = (
    "python:3.12-slim", "node:22-alpine", "node:22", "maven:3-eclipse-temurin-21", "eclipse-temurin:21-jre", "golang:1.23",
    "nginx:1.27", "postgres:17", "rust:1.80", "debian:bookworm-slim", "alpine:3.20", "php:8.3-fpm", "ruby:3.3-slim",
    "mcr.microsoft.com/dotnet/sdk:8.0", "mcr.microsoft.com/dotnet/aspnet:8.0", "ubuntu:24.04", "redis:7", "httpd:2.4",
    "fedora:40", "busybox:1",
)  # fmt: skip


@dataclass(frozen=True)
class Project:
    """A Dockerfile and its files, what must and must not be in the image, and fields of its config."""

    dockerfile: str
    files: dict[str, str]
    there: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    config: dict[str, object] = field(default_factory=dict)
    arguments: dict[str, str] = field(default_factory=dict)


PROJECTS = {
    "python web": Project(
        """# syntax=docker/dockerfile:1
ARG PYTHON_VERSION=3.12
FROM python:${PYTHON_VERSION}-slim AS base
ENV PYTHONDONTWRITEBYTECODE=1 \\
    PYTHONUNBUFFERED=1
WORKDIR /app
ARG UID=10001
RUN echo "appuser:x:${UID}:${UID}::/nonexistent:/sbin/nologin" >> /etc/passwd
RUN --mount=type=cache,target=/root/.cache/pip \\
    --mount=type=bind,source=requirements.txt,target=requirements.txt \\
    test -f requirements.txt && pip install -r requirements.txt
USER appuser
COPY . .
EXPOSE 8000
CMD ["gunicorn", "app:app", "--bind=0.0.0.0:8000"]
""",
        {
            "requirements.txt": "flask",
            "app.py": "app",
            ".dockerignore": "**/__pycache__\n.git\n",
            ".git/x": "x",
        },
        ("app/app.py", "usr/local/lib/python/site-packages/flask.py"),
        ("app/.git",),
        {"user": "appuser", "exposed_ports": ("8000/tcp",), "working_dir": "/app"},
    ),
    "python venv in two stages": Project(
        """FROM python:3.12-slim AS builder
RUN python3 -m venv /opt/venv
ENV PATH="/opt/venv/bin:$PATH"
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt
FROM python:3.12-slim
COPY --from=builder /opt/venv /opt/venv
ENV PATH="/opt/venv/bin:$PATH"
ENTRYPOINT ["python3", "-m", "app"]
""",
        {"requirements.txt": "x"},
        ("opt/venv/bin/pip",),
    ),
    "node service": Project(
        """FROM node:22-alpine
ENV NODE_ENV=production
WORKDIR /usr/src/app
COPY package*.json ./
RUN npm ci --omit=dev && npm cache clean --force
COPY --chown=1000:1000 . .
USER 1000
EXPOSE 3000
HEALTHCHECK --interval=30s --timeout=5s CMD wget -qO- http://localhost:3000/health || exit 1
CMD ["node", "server.js"]
""",
        {
            "package.json": "{}",
            "package-lock.json": "{}",
            "server.js": "x",
            ".dockerignore": "node_modules\n",
        },
        ("usr/src/app/node_modules/lib/index.js", "usr/src/app/server.js"),
    ),
    "single page application behind nginx": Project(
        """FROM node:22 AS build
WORKDIR /src
COPY package.json package-lock.json ./
RUN npm ci
COPY . .
ARG API_URL=http://localhost
RUN npm run build
FROM nginx:1.27
COPY --from=build /src/dist /usr/share/nginx/html
COPY <<EOF /etc/nginx/conf.d/default.conf
server {
  listen 80;
  location / { try_files \\$uri /index.html; }
}
EOF
EXPOSE 80
STOPSIGNAL SIGQUIT
CMD ["nginx", "-g", "daemon off;"]
""",
        {"package.json": "{}", "package-lock.json": "{}", "src/main.js": "x"},
        ("usr/share/nginx/html/index.html", "etc/nginx/conf.d/default.conf"),
        ("src",),
        {"stop_signal": "SIGQUIT"},
    ),
    "java with maven": Project(
        """FROM maven:3-eclipse-temurin-21 AS build
WORKDIR /workspace
COPY pom.xml .
RUN --mount=type=cache,target=/root/.m2 mvn -B dependency:go-offline
COPY src ./src
RUN --mount=type=cache,target=/root/.m2 mvn -B package -DskipTests
FROM eclipse-temurin:21-jre
COPY --from=build /workspace/target/*.jar /app/
ENV JAVA_OPTS=""
ENTRYPOINT exec java $JAVA_OPTS -jar /app/app.jar
""",
        {"pom.xml": "<project/>", "src/Main.java": "x"},
        ("app/app.jar",),
        ("workspace",),
    ),
    "go static": Project(
        """FROM --platform=$BUILDPLATFORM golang:1.23 AS build
WORKDIR /src
RUN --mount=type=cache,target=/go/pkg/mod/ --mount=type=bind,source=go.sum,target=go.sum \\
    --mount=type=bind,source=go.mod,target=go.mod go mod download -x
ARG TARGETARCH
RUN --mount=type=cache,target=/go/pkg/mod/ --mount=type=bind,target=. \\
    test -f main.go && CGO_ENABLED=0 GOARCH=$TARGETARCH go build -o /bin/server .
FROM scratch AS final
COPY --from=build /etc/passwd /etc/passwd
COPY --from=build /bin/server /server
USER root
ENTRYPOINT [ "/server" ]
""",
        {"go.mod": "module x", "go.sum": "", "main.go": "package main"},
        ("server", "etc/passwd"),
        ("bin", "src"),
    ),
    "postgres with a script": Project(
        """FROM postgres:17
ENV POSTGRES_DB=app POSTGRES_USER=app
COPY --chmod=0755 init/*.sh init/*.sql /docker-entrypoint-initdb.d/
RUN set -eux; mkdir -p /srv/pgdata; chown -R 999:999 /srv/pgdata; chmod 1777 /srv/pgdata
VOLUME /srv/pgdata
EXPOSE 5432
HEALTHCHECK CMD pg_isready -U $POSTGRES_USER
""",
        {"init/01.sh": "#!/bin/sh", "init/02.sql": "select 1", "init/README": "x"},
        ("docker-entrypoint-initdb.d/01.sh", "docker-entrypoint-initdb.d/02.sql"),
        ("docker-entrypoint-initdb.d/README",),
        {"volumes": ("/srv/pgdata",)},
    ),
    "rust": Project(
        """FROM rust:1.80 AS build
WORKDIR /app
COPY Cargo.toml Cargo.lock ./
RUN mkdir src && echo "fn main() {}" > src/main.rs && cargo build --release && rm -rf src
COPY src src
RUN touch src/main.rs && cargo build --release
FROM debian:bookworm-slim
RUN apt-get update \\
    && apt-get install -y --no-install-recommends ca-certificates \\
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /app/target/release/app /usr/local/bin/
CMD ["app"]
""",
        {"Cargo.toml": "x", "Cargo.lock": "x", "src/main.rs": "x"},
        ("usr/local/bin/app",),
        ("var/lib/apt/lists/list",),
    ),
    "php": Project(
        """FROM php:8.3-fpm
WORKDIR /var/www/html
RUN apt-get update && apt-get install -y libzip-dev zip \\
 # a comment in the middle
 && rm -rf /var/lib/apt/lists/*
COPY composer.json composer.lock /var/www/html/
RUN composer install --no-scripts --no-autoloader
ADD . /var/www/html
RUN chown -R 33:33 /var/www/html
EXPOSE 9000
""",
        {"composer.json": "{}", "composer.lock": "{}", "index.php": "<?php"},
        ("var/www/html/vendor/autoload.php", "var/www/html/index.php"),
    ),
    "ruby on rails": Project(
        """FROM ruby:3.3-slim AS base
WORKDIR /rails
ENV RAILS_ENV="production" BUNDLE_PATH="/usr/local/bundle"
FROM base AS build
COPY Gemfile Gemfile.lock ./
RUN bundle install && rm -rf ~/.bundle/ "${BUNDLE_PATH}"/ruby/*/cache
COPY . .
FROM base
COPY --from=build "${BUNDLE_PATH}" "${BUNDLE_PATH}"
COPY --from=build /rails /rails
RUN echo "rails:x:1001:1001::/home/rails:/bin/sh" >> /etc/passwd && echo "rails:x:1001:" >> /etc/group && \\
    mkdir -p db log && chown -R rails:rails db log
USER rails:rails
ENTRYPOINT ["/rails/bin/docker-entrypoint"]
CMD ["./bin/rails", "server"]
""",
        {"Gemfile": "x", "Gemfile.lock": "x", "bin/rails": "#!ruby"},
        ("usr/local/bundle/rails.rb", "rails/bin/rails", "rails/log"),
        (),
        {"user": "rails:rails"},
    ),
    "dotnet": Project(
        """FROM mcr.microsoft.com/dotnet/sdk:8.0 AS build-env
WORKDIR /app
COPY . ./
RUN dotnet restore
RUN dotnet publish -c Release -o out
FROM mcr.microsoft.com/dotnet/aspnet:8.0
WORKDIR /app
COPY --from=build-env /app/out .
ENTRYPOINT ["dotnet", "app.dll"]
""",
        {"app.csproj": "x"},
        ("app/app.dll",),
    ),
    "entry script with gosu": Project(
        """FROM debian:bookworm-slim
LABEL maintainer="someone <someone@example.com>" \\
      org.opencontainers.image.source="https://example.com/repo"
SHELL ["/bin/sh", "-euc"]
RUN groupadd -r app && useradd -r -g app app
COPY --chmod=755 <<'SCRIPT' /usr/local/bin/entrypoint.sh
#!/bin/sh
set -e
if [ "$1" = "app" ]; then exec gosu app "$@"; fi
exec "$@"
SCRIPT
ENTRYPOINT ["entrypoint.sh"]
CMD ["app"]
""",
        {},
        ("usr/local/bin/entrypoint.sh",),
        (),
        {"shell": ("/bin/sh", "-euc")},
    ),
    "many here-documents": Project(
        """FROM ubuntu:24.04
RUN <<EOT sh
  set -ex
  apt-get update
  apt-get install -y vim
EOT
RUN <<FILE1 cat > file1 && <<FILE2 cat > file2
I am
first
FILE1
I am
second
FILE2
COPY <<robots.txt <<humans.txt /usr/share/nginx/html/
User-agent: *
robots.txt
Team: us
humans.txt
""",
        {},
        ("file1", "file2", "usr/share/nginx/html/robots.txt", "usr/share/nginx/html/humans.txt"),
    ),
    "development and production targets": Project(
        """FROM node:22-alpine AS base
WORKDIR /app
COPY package.json .
FROM base AS dev
RUN npm install
CMD ["npm", "run", "dev"]
FROM base AS test
COPY --from=dev /app/node_modules node_modules
RUN test -f node_modules/lib/index.js
FROM base AS prod
RUN npm ci --omit=dev
CMD ["node", "."]
""",
        {"package.json": "{}"},
        ("app/node_modules/lib/index.js",),
    ),
    "legacy": Project(
        """FROM busybox:1
MAINTAINER Some Body <some@body.example>
ENV APP_HOME /opt/app
ENV PATH $APP_HOME/bin:$PATH
ADD start.sh $APP_HOME/bin/
RUN chmod +x $APP_HOME/bin/start.sh; \\
    ln -s $APP_HOME/bin/start.sh /start
VOLUME ["/opt/app/data", "/var/log/app"]
EXPOSE 8080 8443/tcp
CMD $APP_HOME/bin/start.sh --verbose
""",
        {"start.sh": "#!/bin/sh"},
        ("opt/app/bin/start.sh", "start"),
        (),
        {"exposed_ports": ("8080/tcp", "8443/tcp")},
    ),
    "onbuild base in the same file": Project(
        """FROM python:3.12-slim AS onbuild
ONBUILD COPY requirements.txt /req.txt
ONBUILD RUN pip install -r /req.txt
FROM onbuild
COPY app.py /app.py
CMD ["python3", "/app.py"]
""",
        {"requirements.txt": "x", "app.py": "x"},
        ("req.txt", "usr/local/lib/python/site-packages/flask.py", "app.py"),
    ),
    "version from an argument": Project(
        """ARG BASE=alpine
ARG TAG=3.20
FROM ${BASE}:${TAG}
ARG TAG
ARG VERSION
ENV VERSION=${VERSION:-unknown} MAJOR=${VERSION%%.*} TAGGED=${TAG/3./three-}
LABEL version=$VERSION tagged=$TAGGED major=$MAJOR
RUN apk add --no-cache "tool=~${VERSION#v}" && echo "$VERSION $MAJOR $TAGGED" > /version
""",
        {},
        ("version",),
        (),
        {"labels": {"version": "4.5.6", "tagged": "three-20", "major": "4"}},
        {"VERSION": "4.5.6"},
    ),
    "redis with a config": Project(
        """FROM redis:7
COPY redis.conf /usr/local/etc/redis/redis.conf
RUN sed -i 's/^bind .*/bind 0.0.0.0/' /usr/local/etc/redis/redis.conf && \\
    grep -q 0.0.0.0 /usr/local/etc/redis/redis.conf
CMD [ "redis-server", "/usr/local/etc/redis/redis.conf" ]
""",
        {"redis.conf": "bind 127.0.0.1\nport 6379\n"},
        ("usr/local/etc/redis/redis.conf",),
    ),
    "apache with excludes": Project(
        """FROM httpd:2.4
COPY --exclude=*.md --exclude=drafts ./public-html/ /usr/local/apache2/htdocs/
COPY --parents ./conf/**/*.conf /usr/local/apache2/
""",
        {
            "public-html/index.html": "x",
            "public-html/notes.md": "x",
            "public-html/drafts/d.html": "x",
            "conf/a/one.conf": "1",
            "conf/two.conf": "2",
            "conf/a/skip.txt": "3",
        },
        (
            "usr/local/apache2/htdocs/index.html",
            "usr/local/apache2/conf/a/one.conf",
            "usr/local/apache2/conf/two.conf",
        ),
        (
            "usr/local/apache2/htdocs/notes.md",
            "usr/local/apache2/htdocs/drafts",
            "usr/local/apache2/conf/a/skip.txt",
        ),
    ),
    "fedora with a secret": Project(
        """FROM fedora:40
RUN dnf -y install git && dnf clean all && rm -rf /var/cache/dnf
RUN --mount=type=secret,id=netrc,target=/root/.netrc curl --netrc https://example.com/private -o /dev/null
RUN test ! -e /root/.netrc
WORKDIR /srv
ONBUILD ADD . /srv
USER 65534:65534
""",
        {},
        ("srv",),
        ("root/.netrc",),
        {"on_build": ("ADD . /srv",), "user": "65534:65534"},
    ),
}


@pytest.fixture(scope="module")
def node() -> Iterator[BuildNode]:
    with build_node() as made:
        links = " && ".join(f"cp /tool /usr/local/bin/{name}" for name in _NAMES.split())
        base = made.build(
            f"FROM busybox:test\nCOPY --chmod=755 tool /tool\nRUN mkdir -p /usr/local/bin && {links}\n",
            files={"tool": _TOOL},
        )
        for name in _IMAGES:
            made.images.tag(base.image_id, name)
        yield made


@pytest.mark.parametrize("name", PROJECTS)
def test_a_project_builds_as_written(node: BuildNode, name: str) -> None:
    project = PROJECTS[name]
    files = project.files or {"unused": "x"}
    result = node.build(
        project.dockerfile,
        files=files,
        build_args=project.arguments,
        secrets={"netrc": b"machine example.com login me password geheim"},
    )
    tree = node.tree(result)
    assert set(project.there) <= set(tree)
    assert not set(project.gone) & set(tree)
    config = node.image(result).config.config
    for key, expected in project.config.items():
        assert getattr(config, key) == expected
    again = node.build(project.dockerfile, files=files, build_args=project.arguments)
    assert again.image_id == result.image_id
    assert node.leftovers() == []
