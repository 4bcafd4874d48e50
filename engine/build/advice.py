from __future__ import annotations

from engine.build import instructions as ins
from engine.build.request import Advice
from engine.build.solver import Build
from engine.build.state import StageState


def advise(build: Build, dockerfile: ins.Dockerfile, state: StageState) -> list[Advice]:
    return []
