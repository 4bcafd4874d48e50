"""Advice on a build: what in its Dockerfile is risky or wasteful, with the line and the bytes.

Each check is a function that yields findings for one rule (`advice_rules`, `docs/advice/`). They read the instructions, the final config and the
layers that the build made; none changes anything, and none may fail a build.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeGuard

from engine.build import instructions as ins
from engine.build.advice_rules import RULES, skipped
from engine.build.layerlook import Look, look
from engine.build.plan import BaseKind, StagePlan
from engine.build.request import Advice
from engine.build.secrecy import looks_secret
from engine.build.solver import Build
from engine.build.state import StageState
from engine.build.suggest import nearest
from engine.build.trees import has_wildcards
from engine.digest import Digest

_WORTH_BYTES = 100_000
_HEAVY_SHARE = 0.3
_HEAVY_BYTES = 1_000_000
_JUNK = frozenset({
    ".git", "node_modules", ".venv", "venv", "__pycache__", "target", "dist", "build", ".tox", ".mypy_cache", ".pytest_cache",
    ".gradle", ".terraform", "vendor", ".cache", "coverage", ".next",
})  # fmt: skip
_INSTALLS = re.compile(
    r"\b(?:pip3? install|uv (?:pip|sync)|poetry install|npm (?:ci|install)|yarn(?: install)?\b|pnpm install|go mod download"
    r"|cargo fetch|bundle install|composer install|mvn .*dependency|apt-get install|apk add)"
)
_SLIM = {
    "debian": "debian:bookworm-slim",
    "python": "python:<version>-slim",
    "node": "node:<version>-slim",
    "ruby": "ruby:<version>-slim",
    "perl": "perl:<version>-slim",
    "openjdk": "a JRE image instead of a JDK",
    "eclipse-temurin": "eclipse-temurin:<version>-jre",
    "golang": "scratch or a slim image for the final stage",
    "rust": "debian:bookworm-slim for the final stage",
    "maven": "eclipse-temurin:<version>-jre for the final stage",
}


@dataclass(frozen=True)
class _Made:
    """A layer of the final image that this build's Dockerfile describes."""

    line: int
    size: int
    look: Look


class _Case:
    """Everything that the checks look at."""

    def __init__(self, build: Build, dockerfile: ins.Dockerfile, state: StageState) -> None:
        self.build = build
        self.dockerfile = dockerfile
        self.state = state
        self.target = build.plan.stages[build.plan.target]
        self.final = list(_line_of_stages(build, self.target))
        self.layers = list(self._layers())

    def _layers(self) -> Iterator[_Made]:
        lines = {result.diff_id: result.line for result in self.build.results if result.diff_id}
        for layer in self.state.layers:
            if layer.diff_id in lines:
                services = self.build.services
                yield _Made(
                    lines[layer.diff_id],
                    layer.size,
                    look(services.db, services.snapshots, Digest(layer.chain)),
                )


def advise(build: Build, dockerfile: ins.Dockerfile, state: StageState) -> list[Advice]:
    """Return the advice on a finished build, gravest and largest first."""
    silent = skipped(dockerfile.parsed.directives.get("check", ""))
    case = _Case(build, dockerfile, state)
    found: list[Advice] = []
    for rule, check in _CHECKS.items():
        if rule not in silent:
            found += [
                Advice(rule, message, line, size, RULES[rule].severity) for line, message, size in check(case)
            ]
    return sorted(found, key=lambda advice: (advice.severity != "warning", -advice.size_bytes, advice.line))


Finding = tuple[int, str, int]  # line, message, bytes


def _line_of_stages(build: Build, target: StagePlan) -> Iterator[StagePlan]:
    """Give the target stage and the stages that it stands on."""
    stage: StagePlan | None = target
    while stage is not None:
        yield stage
        stage = build.plan.stages.get(stage.base_stage) if stage.base_stage is not None else None


def _merge_run(case: _Case) -> Iterator[Finding]:
    for stage in case.final:
        row: list[ins.Run] = []
        for instruction in (*stage.instructions, None):
            if isinstance(instruction, ins.Run) and not instruction.mounts and not instruction.triggered:
                row.append(instruction)
                continue
            if len(row) > 1:
                first, last = row[0].line, row[-1].line
                hidden = sum(made.look.hidden_bytes for made in case.layers if first < made.line <= last)
                yield (
                    first,
                    f"{len(row)} RUN instructions in a row (to line {last}) could be one layer",
                    hidden,
                )
            row = []


def _package_cache(case: _Case) -> Iterator[Finding]:
    for made in case.layers:
        for manager, size in made.look.caches.items():
            if size >= _WORTH_BYTES:
                yield (
                    made.line,
                    f"the layer keeps the cache of {manager}; remove it in the same RUN, or use a cache mount",
                    size,
                )


def _build_tools(case: _Case) -> Iterator[Finding]:
    for made in case.layers:
        if made.look.tools:
            tools = ", ".join(made.look.tools[:5])
            yield (
                made.line,
                f"the final image holds build tools ({tools}); build in a stage of its own and copy the result",
                made.size,
            )


def _hidden_files(case: _Case) -> Iterator[Finding]:
    for made in case.layers:
        if made.look.hidden_bytes >= _WORTH_BYTES:
            example = made.look.hidden_example
            yield (
                made.line,
                f"replaces or removes files of lower layers (such as {example}), which stay in the image",
                made.look.hidden_bytes,
            )


def _smaller_base(case: _Case) -> Iterator[Finding]:
    bottom = case.final[-1]
    if bottom.base_kind is not BaseKind.IMAGE:
        return
    name = bottom.base.rpartition("/")[2].partition("@")[0]
    repository, _, tag = name.partition(":")
    if repository in _SLIM and not re.search(r"slim|alpine|jre|distroless", tag):
        known = {result.diff_id for result in case.build.results}
        size = sum(layer.size for layer in case.state.layers if layer.diff_id not in known)
        yield (
            bottom.head.line,
            f"the base {bottom.base} is most of many images; try {_SLIM[repository]}",
            size,
        )


def _cache_order(case: _Case) -> Iterator[Finding]:
    for stage in case.build.plan.stages.values():
        everything: ins.Transfer | None = None
        for instruction in stage.instructions:
            if _copies_everything(instruction):
                everything = everything or instruction
            if (
                isinstance(instruction, ins.Run)
                and everything
                and _INSTALLS.search(" ".join(instruction.command.words))
            ):
                yield (
                    everything.line,
                    f"every change of any file installs again what line {instruction.line} installs; copy its list of packages first",
                    0,
                )
                break


def _copies_everything(instruction: ins.Instruction) -> TypeGuard[ins.Transfer]:
    if not isinstance(instruction, ins.Transfer) or (
        isinstance(instruction, ins.Copy) and instruction.origin
    ):
        return False
    return bool({".", "./", "/"} & set(instruction.sources))


def _ignore_upload(case: _Case) -> Iterator[Finding]:
    context = case.build.context
    for name, size in context.heavy:
        if name in _JUNK and size > _HEAVY_BYTES and size > _HEAVY_SHARE * context.size_bytes:
            yield (
                0,
                f"{name} is {size * 100 // max(context.size_bytes, 1)} % of the upload; name it in .dockerignore",
                size,
            )


def _secret_variable(case: _Case) -> Iterator[Finding]:
    for stage in case.build.plan.stages.values():
        for instruction in stage.instructions:
            names = []
            if isinstance(instruction, ins.Arg):
                names = [definition.name for definition in instruction.definitions]
            elif isinstance(instruction, ins.Env):
                names = [pair.name for pair in instruction.pairs]
            for name in names:
                if looks_secret(name):
                    yield (
                        instruction.line,
                        f"{instruction.keyword} {name} looks like a secret and stays readable; use RUN --mount=type=secret",
                        0,
                    )


def _root_user(case: _Case) -> Iterator[Finding]:
    if not case.state.config.user and (case.state.config.cmd or case.state.config.entrypoint):
        yield case.target.head.line, "the image runs as root; end with a USER", 0


def _floating_base(case: _Case) -> Iterator[Finding]:
    for stage in case.build.plan.stages.values():
        if stage.base_kind is BaseKind.IMAGE and "@" not in stage.base:
            tag = stage.base.rpartition("/")[2].partition(":")[2]
            if tag in ("", "latest"):
                yield stage.head.line, f"{stage.base} is whatever is newest; name a version or a digest", 0


def _undefined_variable(case: _Case) -> Iterator[Finding]:
    expander = case.build.expander
    defined = _defined_names(case)
    for line, names in sorted(expander.undefined.items()):
        for name in sorted(names - defined):
            if re.match(r"[A-Za-z_]", name):
                meant = nearest(name, defined)
                yield line, f"${name} is not defined{f', did you mean ${meant}?' if meant else ''}", 0


def _defined_names(case: _Case) -> set[str]:
    names: set[str] = set()
    for stage in case.dockerfile.stages:
        for instruction in stage.body:
            if isinstance(instruction, ins.Arg):
                names |= {definition.name for definition in instruction.definitions}
    return names | set(case.state.scope.names())


def _several_commands(case: _Case) -> Iterator[Finding]:
    for stage in case.build.plan.stages.values():
        for kind in (ins.Cmd, ins.Entrypoint, ins.HealthCheck):
            found = [instruction for instruction in stage.instructions if isinstance(instruction, kind)]
            for instruction in found[:-1]:
                yield (
                    instruction.line,
                    f"this {kind.keyword} has no effect: line {found[-1].line} replaces it",
                    0,
                )


def _shell_form(case: _Case) -> Iterator[Finding]:
    if case.state.config.shell:
        return
    for stage in case.final:
        for instruction in stage.instructions:
            if isinstance(instruction, ins.Cmd | ins.Entrypoint) and instruction.command.shell:
                yield (
                    instruction.line,
                    f'{instruction.keyword} in shell form gets no signals; write it as ["program", "argument"]',
                    0,
                )


def _relative_workdir(case: _Case) -> Iterator[Finding]:
    for stage in case.build.plan.stages.values():
        workdirs = [instruction for instruction in stage.instructions if isinstance(instruction, ins.Workdir)]
        if workdirs and stage.base_kind is not BaseKind.STAGE and not workdirs[0].path.startswith(("/", "$")):
            yield workdirs[0].line, f"WORKDIR {workdirs[0].path} begins wherever the base image left off", 0


def _legacy_form(case: _Case) -> Iterator[Finding]:
    for stage in case.build.plan.stages.values():
        for instruction in stage.instructions:
            if isinstance(instruction, ins.Env | ins.Label) and any(
                pair.legacy for pair in instruction.pairs
            ):
                pair = instruction.pairs[0]
                yield instruction.line, f"write {instruction.keyword} {pair.name}=... instead", 0


def _maintainer(case: _Case) -> Iterator[Finding]:
    for stage in case.dockerfile.stages:
        for instruction in stage.body:
            if isinstance(instruction, ins.Maintainer):
                yield instruction.line, "use LABEL org.opencontainers.image.authors=...", 0


def _duplicate_stage(case: _Case) -> Iterator[Finding]:
    seen: dict[str, int] = {}
    for stage in case.dockerfile.stages:
        name = stage.head.name
        if name and name in seen:
            yield stage.head.line, f"the stage {name} is defined in line {seen[name]} already", 0
        seen.setdefault(name, stage.head.line)


def _empty_continuation(case: _Case) -> Iterator[Finding]:
    for warning in case.dockerfile.parsed.warnings:
        yield warning.line, "an empty line inside an instruction will be an error one day; take it out", 0


def _ignored_source(case: _Case) -> Iterator[Finding]:
    ignore = case.build.context.ignore
    if ignore is None:
        return
    for stage in case.build.plan.stages.values():
        for instruction in stage.instructions:
            if isinstance(instruction, ins.Transfer) and not getattr(instruction, "origin", ""):
                for source in instruction.sources:
                    plain = source.strip("/")
                    if (
                        plain
                        and not has_wildcards(plain)
                        and "$" not in plain
                        and "://" not in plain
                        and ignore.ignores(plain)
                    ):
                        yield instruction.line, f"{source} is left out by .dockerignore", 0


_CHECKS = {
    "merge-run": _merge_run,
    "package-cache": _package_cache,
    "build-tools": _build_tools,
    "hidden-files": _hidden_files,
    "smaller-base": _smaller_base,
    "cache-order": _cache_order,
    "ignore-upload": _ignore_upload,
    "secret-variable": _secret_variable,
    "root-user": _root_user,
    "floating-base": _floating_base,
    "undefined-variable": _undefined_variable,
    "several-commands": _several_commands,
    "shell-form": _shell_form,
    "relative-workdir": _relative_workdir,
    "legacy-form": _legacy_form,
    "maintainer": _maintainer,
    "duplicate-stage": _duplicate_stage,
    "empty-continuation": _empty_continuation,
    "ignored-source": _ignored_source,
}
