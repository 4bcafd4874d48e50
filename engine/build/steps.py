"""The instructions of one stage, carried out one after the other."""

from __future__ import annotations

from engine.build import instructions as ins
from engine.build.ops.place import Ownership, Placement
from engine.build.plan import StagePlan
from engine.build.solver import Build
from engine.build.state import MetadataWriter, StageState, joined_workdir
from engine.build.step import Outcome, StateOf, Step
from engine.build.step_copy import TransferStep
from engine.build.step_run import RunStep
from engine.images.unpack import CommittedLayer
from engine.runtime.users import resolve_user


class StageSteps:
    """Carries out stages. `state_of` waits for another stage and returns its final state."""

    def __init__(self, build: Build, state_of: StateOf) -> None:
        self._build = build
        self._state_of = state_of

    def run(self, stage: StagePlan, state: StageState) -> None:
        """Carry out all instructions of `stage` on `state`."""
        for position, instruction in enumerate(stage.instructions, 1):
            kind = next(
                (kind for form, kind in _KINDS.items() if isinstance(instruction, form)), MetadataStep
            )
            kind(self._build, self._state_of, stage, position, instruction, state).run()


class MetadataStep(Step):
    """An instruction that changes the config alone."""

    def carry_out(self, instruction: ins.Instruction) -> Outcome:
        build = self._build
        MetadataWriter(build.expander, build.request.build_args, build.outer).apply(instruction, self._state)
        return Outcome("done")


class WorkdirStep(Step):
    """WORKDIR: the folder is made where the image has none, for the user that the image runs as."""

    def carry_out(self, instruction: ins.Instruction) -> Outcome:
        assert isinstance(instruction, ins.Workdir)
        path = joined_workdir(self._state.config.working_dir, instruction.path)
        self._state.set_workdir(path)
        user = self._state.config.user
        meaning = self._meaning("workdir", self._state.lineage, {"path": path, "user": user})
        return self._solve(meaning, f"WORKDIR {path}", lambda: self._make_folder(path, user))

    def _make_folder(self, path: str, user: str) -> CommittedLayer | None:
        with self._snapshot("workdir") as key:
            upper = self._services.snapshots.snapshot(key).upper
            with self._mounted(key) as merged:
                ids = resolve_user(merged, user)
                placement = Placement(merged, Ownership((ids.uid, ids.gid)), self._build.clock.check)
                placement.folder(path)
            placement.write(upper)
            return self._commit(key)


_KINDS: dict[type[ins.Instruction], type[Step]] = {
    ins.Run: RunStep,
    ins.Transfer: TransferStep,
    ins.Workdir: WorkdirStep,
}
