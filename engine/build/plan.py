"""The graph of a build: which stages are needed for the target, what each stands on, and in what it waits for others.

    FROM debian AS build            stage 0, on an image
    FROM scratch                    stage 1, on nothing, takes files of stage 0
    COPY --from=build /app /app

Only what the target needs is planned: a stage that nothing leads to is skipped, its base never looked for. ONBUILD triggers of
a base (image or stage) come first in the stage on top of it, and may themselves need further stages.
A stage only ever needs stages above it in the file, so there are no circles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from engine.build import instructions as ins
from engine.build.expansion import Expander
from engine.build.instruction_parser import parse_trigger
from engine.build.runmounts import MountType, parse_mount
from engine.build.secrecy import without_credentials
from engine.build.suggest import did_you_mean
from engine.errors import DockerfileError, InvalidInput, Unsupported
from engine.images.platforms import fits, parse_platform
from engine.platform import Platform

SCRATCH = "scratch"
_SHOWN = 1000

Triggers = Callable[[str, Platform, ins.From], tuple[str, ...]]
"""Return the ONBUILD triggers of an image: (reference, platform, the FROM that names it)."""


class BaseKind(StrEnum):
    SCRATCH = "scratch"
    IMAGE = "image"
    STAGE = "stage"


@dataclass(frozen=True)
class Source:
    """Where files come from: the stage with number `stage`, or the image `image`; both empty: the context."""

    stage: int | None = None
    image: str = ""


@dataclass
class StagePlan:
    """One stage that will be built. `origins` says where COPY --from and RUN --mount from= of an instruction lead."""

    index: int
    name: str
    head: ins.From
    base_kind: BaseKind
    base: str
    base_stage: int | None
    platform: Platform
    instructions: tuple[ins.Instruction, ...]
    needs: set[int] = field(default_factory=set)
    images: set[str] = field(default_factory=set)
    origins: dict[tuple[int, str], Source] = field(default_factory=dict)  # (position, name as written)

    @property
    def title(self) -> str:
        return self.name or f"stage-{self.index}"

    def step_id(self, position: int) -> str:
        """Return the id of the instruction at `position`; 0 is the FROM."""
        return f"{self.index}.{position}"

    def to_json(self) -> dict[str, Any]:
        """Return the stage as pages draw it."""
        steps = [{"id": self.step_id(0), "name": shown_text(self.head), "line": self.head.line}]
        steps += [
            {"id": self.step_id(position), "name": shown_text(instruction), "line": instruction.line}
            for position, instruction in enumerate(self.instructions, 1)
        ]
        return {
            "index": self.index,
            "name": self.title,
            "base": self.base,
            "base_kind": self.base_kind.value,
            "base_stage": self.base_stage,
            "platform": str(self.platform),
            "needs": sorted(self.needs),
            "images": sorted(self.images),
            "line": self.head.line,
            "steps": steps,
        }


@dataclass
class BuildPlan:
    """The stages to build, by number, and the one whose image is wanted. `skipped` are titles of those left out."""

    stages: dict[int, StagePlan]
    target: int
    skipped: tuple[str, ...]
    context_uses: int  # instructions that take something of the build context

    @property
    def needs_context(self) -> bool:
        return self.context_uses > 0

    def to_json(self) -> list[dict[str, Any]]:
        return [
            {**self.stages[index].to_json(), "target": index == self.target} for index in sorted(self.stages)
        ]


class Planner:
    """Plans one Dockerfile. `scope` holds the variables of the FROM lines, `triggers` looks into base images."""

    def __init__(
        self,
        dockerfile: ins.Dockerfile,
        expander: Expander,
        scope: Mapping[str, str],
        *,
        host: Platform,
        target_platform: Platform,
        triggers: Triggers,
    ) -> None:
        self._dockerfile = dockerfile
        self._expander = expander
        self._scope = scope
        self._host = host
        self._platform = target_platform
        self._triggers = triggers
        self._heads = [self._expanded(stage.head) for stage in dockerfile.stages]
        self._stages: dict[int, StagePlan] = {}
        self._platforms: dict[int, Platform] = {}

    def plan(self, target: str = "") -> BuildPlan:
        """Plan what `target` (a stage's name or number; empty: the last) needs. Raises `DockerfileError`."""
        index = self._target(target)
        self._visit(index)
        self._check_platforms()
        skipped = tuple(
            head.name or f"stage-{number}"
            for number, head in enumerate(self._heads)
            if number not in self._stages
        )
        return BuildPlan(self._stages, index, skipped, sum(map(_context_uses, self._stages.values())))

    def names(self) -> list[str]:
        return [head.name for head in self._heads if head.name]

    def _expanded(self, head: ins.From) -> ins.From:
        base = self._expander.word(head.base, self._scope.get, head)
        if not base:
            raise self._expander.error(f"base name ({head.base}) should not be blank", head, head.base)
        platform = self._expander.word(head.platform, self._scope.get, head)
        if head.platform and not platform:
            raise self._expander.error(
                f"empty platform value from expression {head.platform}", head, "--platform"
            )
        return ins.From(head.node, base, head.name, platform)

    def _target(self, target: str) -> int:
        if not target:
            return len(self._heads) - 1
        found = self._named(target, len(self._heads))
        if found is None and target.isdigit() and int(target) < len(self._heads):
            found = int(target)
        if found is None:
            raise DockerfileError(
                f'target stage "{target}" could not be found',
                file=self._dockerfile.parsed.file,
                hint=did_you_mean(target, self.names()),
            )
        return found

    def _named(self, name: str, before: int) -> int | None:
        """Return the last stage of that name above stage `before`."""
        lowered = name.lower()
        return next(
            (index for index in range(before - 1, -1, -1) if self._heads[index].name == lowered), None
        )

    def _visit(self, index: int) -> StagePlan:
        """Plan a stage and what it needs; stages only lead upwards, and there are at most `MAX_STAGES` of them."""
        pending = [index]
        while pending:
            number = pending.pop()
            if number not in self._stages:
                stage = self._stages[number] = self._stage(number)
                pending += sorted(stage.needs)
        return self._stages[index]

    def _stage(self, index: int) -> StagePlan:
        head, body = self._heads[index], self._dockerfile.stages[index].body
        base_stage = self._named(head.base, index)
        triggers: tuple[str, ...] = ()
        if head.base.lower() == SCRATCH and base_stage is None:
            kind = BaseKind.SCRATCH
        elif base_stage is not None:
            kind, triggers = BaseKind.STAGE, self._stage_triggers(base_stage)
        else:
            kind, triggers = BaseKind.IMAGE, self._triggers(head.base, self._platform_of(index), head)
        instructions = (*(parse_trigger(text, head, self._dockerfile.parsed) for text in triggers), *body)
        stage = StagePlan(
            index, head.name, head, kind, head.base, base_stage, self._platform_of(index), instructions
        )
        if base_stage is not None:
            stage.needs.add(base_stage)
        for position, instruction in enumerate(instructions, 1):
            self._note_origins(stage, position, instruction)
        return stage

    def _stage_triggers(self, index: int) -> tuple[str, ...]:
        body = self._dockerfile.stages[index].body
        return tuple(instruction.expression for instruction in body if isinstance(instruction, ins.OnBuild))

    def _platform_of(self, index: int) -> Platform:
        """Return what a stage says, else what the stage below it has, else what the build is for."""
        passed = []
        while index not in self._platforms:
            passed.append(index)
            head, base = self._heads[index], self._named(self._heads[index].base, index)
            if head.platform:
                self._platforms[index] = self._parsed_platform(head)
            elif base is None:
                self._platforms[index] = self._platform
            else:
                index = base
        for stage in passed:
            self._platforms[stage] = self._platforms[index]
        return self._platforms[index]

    def _parsed_platform(self, head: ins.From) -> Platform:
        try:
            return parse_platform(head.platform)
        except InvalidInput as error:
            raise self._expander.error(
                f"failed to parse platform {head.platform}: {error.message}", head, "--platform", error.hint
            ) from error

    def _note_origins(self, stage: StagePlan, position: int, instruction: ins.Instruction) -> None:
        if isinstance(instruction, ins.Copy) and instruction.origin:
            if "$" in instruction.origin:
                raise self._expander.error(
                    "variable expansion is not supported for --from, define a new stage with FROM using ARG from global"
                    " scope as a workaround",
                    instruction,
                    "--from",
                )
            self._note(stage, position, instruction, instruction.origin, "copy from")
        if isinstance(instruction, ins.Run):
            for text in instruction.mounts:
                mount = parse_mount(text)
                if mount.origin and mount.type in (MountType.BIND, MountType.CACHE):
                    self._note(stage, position, instruction, mount.origin, "mount from")

    def _note(
        self, stage: StagePlan, position: int, instruction: ins.Instruction, origin: str, verb: str
    ) -> None:
        found = self._named(origin, stage.index)
        if found is None and origin.isdigit() and verb == "copy from":
            found = int(origin)
            if found >= len(self._heads):
                raise self._expander.error(f"invalid stage index {found}", instruction, f"--from={origin}")
        elif found is None:
            found = self._named(origin, len(self._heads))
        if found is None:
            if origin.lower() != SCRATCH:
                stage.images.add(origin)
            stage.origins[position, origin] = Source(image=origin)
            return
        if found >= stage.index:
            raise self._expander.error(
                f'cannot {verb} stage "{origin}", it needs to be defined before current stage "{stage.title}"',
                instruction,
                origin,
            )
        stage.needs.add(found)
        stage.origins[position, origin] = Source(stage=found)

    def _check_platforms(self) -> None:
        for stage in self._stages.values():
            foreign = not fits(stage.platform, self._host)
            for instruction in stage.instructions:
                if foreign and isinstance(instruction, ins.Run):
                    raise Unsupported(
                        f"line {instruction.line}: RUN needs {stage.platform}, and this node runs {self._host} only",
                        hint="build on a node of that platform, or only copy files in that stage",
                        line=instruction.line,
                    )


def shown_text(instruction: ins.Instruction) -> str:
    """Return an instruction as logs and pages show it: on one line, not endless, without credentials."""
    return without_credentials(instruction.text)[:_SHOWN]


def _context_uses(stage: StagePlan) -> int:
    return sum(_takes_of_context(instruction) for instruction in stage.instructions)


def _takes_of_context(instruction: ins.Instruction) -> bool:
    if isinstance(instruction, ins.Copy):
        return bool(instruction.sources) and not instruction.origin
    if isinstance(instruction, ins.Add):
        return not all(source.startswith(("http://", "https://")) for source in instruction.sources)
    if isinstance(instruction, ins.Run):
        mounts = [parse_mount(text) for text in instruction.mounts]
        return any(mount.type is MountType.BIND and not mount.origin for mount in mounts)
    return False
