"""Does one delivered operation: verify → claim → verb → outcome. The same for every kind.

Whatever is wrong with the work becomes a `failed` outcome in the journal. What is wrong with the message (not signed with this node's key)
gets no outcome: nobody of ours sent it. A delivery whose operation is done, or held by a living worker, changes nothing.
"""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.db import Work, current_work
from engine.errors import Cancelled, Unavailable
from workers.contracts import envelope as envelopes
from workers.contracts.base import Contract
from workers.contracts.envelope import Envelope
from workers.contracts.events import CANCELLED, FAILED, SUCCEEDED
from workers.contracts.problems import DEADLINE, Problem
from workers.contracts.signing import BadSignature, NodeKey
from workers.contracts.values import ContractError
from workers.facade import EngineFacade
from workers.keys import unseal
from workers.ledger import Claim, Ledger, Verdict, held
from workers.problems import problem_of
from workers.tasks import keeper, spool
from workers.tasks.keeper import Held, Keeper
from workers.tasks.progress import OperationLog, ProgressWriter
from workers.tasks.verbs import RECALL, VERBS, Context

logger = logging.getLogger(__name__)

CLAIM_PAUSES_S = (0.5, 2.0, 5.0)


@dataclass(frozen=True)
class Runner:
    """Everything that a worker process needs to do operations; one a process, shared by its threads."""

    engine: EngineFacade
    home: Path
    key: NodeKey
    ledger: Ledger
    keeper: Keeper
    progress: ProgressWriter

    def run(self, kind: str, text: str) -> None:
        """Do the operation in the envelope `text`, which came as a task of `kind`."""
        try:
            envelope = envelopes.read(self.key, text)
            if envelope.kind != kind:
                raise ContractError(f"an envelope of {envelope.kind} came as {kind}")
        except BadSignature as error:
            logger.warning("dropped a task %s: %s", kind, error)
            return
        except ContractError as error:
            logger.error("dropped a task %s: %s", kind, error)
            return
        claim = self._claim(envelope, text)
        if isinstance(claim, Verdict):
            logger.info("operation %s (%s): %s", envelope.operation, kind, claim.value)
            return
        with held(claim):
            self._work(claim, envelope)

    def _claim(self, envelope: Envelope, text: str) -> Claim | Verdict:
        """Claim, with patience for a database that is busy or a disk that is full just now; raises what stays.

        Then the operation stays where it was, and the web site, which hears nothing, sends it again.
        """
        for pause_s in (*CLAIM_PAUSES_S, None):
            try:
                return self.ledger.claim(envelope, text)
            except (Unavailable, Cancelled) as error:
                if pause_s is None:
                    raise
                logger.warning("operation %s waits: %s", envelope.operation, error)
                time.sleep(pause_s)
        raise AssertionError("not reached")

    def _work(self, claim: Claim, envelope: Envelope) -> None:
        log = self.progress.open(claim.id)
        watch = self.keeper.watch(claim, envelope.deadline_s)
        try:
            if claim.attempt > 1:
                log.add("attempt", attempt=claim.attempt)
            status, result, problem = self._outcome(claim, envelope, log, watch)
            if watch.reason == keeper.SHUTDOWN and status == CANCELLED:
                logger.info("operation %s is left to the next worker", claim.id)
                return
            if log.index or problem or log.has_waiting:
                log.close(status, problem)
            if self.ledger.finish(claim, status, result=result, problem=problem):
                self._discard_uploads(envelope)
        finally:
            self.keeper.forget(watch)

    def _outcome(
        self, claim: Claim, envelope: Envelope, log: OperationLog, watch: Held
    ) -> tuple[str, dict[str, Any] | None, Problem | None]:
        """Run the verb; every error becomes part of the outcome."""
        if self.keeper.is_cancelled(claim.id):
            return CANCELLED, None, Problem("cancelled", "cancelled before it began")
        token = current_work.set(Work(claim.id, lambda connection: self.ledger.check(claim, connection)))
        try:
            contract = envelope.contract(unseal(self.key, envelope.sealed, claim.id))
            if claim.attempt > 1 and (known := self._recall(claim)) is not None:
                return SUCCEEDED, known, None
            context = Context(self.engine, self.home, log.report, watch.token, again=claim.attempt > 1)
            return SUCCEEDED, self._call(contract, context), None
        except Cancelled as error:
            if watch.reason == keeper.DEADLINE:
                limit = f"{envelope.deadline_s:.0f} s"
                return FAILED, None, Problem(DEADLINE, f"not done within {limit}", retryable=True)
            return CANCELLED, None, problem_of(error)
        except Exception as error:  # the seam: whatever a verb raises is the operation's outcome
            return FAILED, None, problem_of(error)
        finally:
            current_work.reset(token)

    def _call(self, contract: Contract, context: Context) -> dict[str, Any]:
        return VERBS[contract.KIND](context, contract)

    def _recall(self, claim: Claim) -> dict[str, Any] | None:
        """Return the result that an interrupted attempt reached, if its events prove that it did."""
        proof = RECALL.get(claim.kind)
        for event in self.ledger.events_of(claim):
            if (event.type, event.action) == proof:
                return {event.type: event.attributes.get("record") or {"id": event.subject}}
        return None

    def _discard_uploads(self, envelope: Envelope) -> None:
        for name in ("source", "context"):
            file_id = envelope.payload.get(name)
            if isinstance(file_id, str) and file_id:
                with contextlib.suppress(ContractError, OSError):
                    spool.discard(self.home, file_id)
