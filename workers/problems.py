"""The seam where exceptions of the engine become problems that may leave the node."""

from __future__ import annotations

import logging
from typing import Any

from engine.errors import EngineError
from workers.contracts.problems import INTERNAL, REFUSED, Problem
from workers.contracts.values import ContractError

logger = logging.getLogger(__name__)

LONGEST_TEXT = 4000


def problem_of(error: BaseException) -> Problem:
    """Return what people are told of an error; one that is nobody's on purpose is logged with its traceback."""
    if isinstance(error, EngineError):
        context = {name: _plain(value) for name, value in error.context.items()}
        return Problem(error.code, error.message[:LONGEST_TEXT], error.hint, error.retryable, context)
    if isinstance(error, ContractError):
        return Problem(REFUSED, str(error)[:LONGEST_TEXT])
    logger.error("unexpected %s", type(error).__name__, exc_info=error)
    return Problem(
        INTERNAL, f"{type(error).__name__}: {error}"[:LONGEST_TEXT], hint="the node's log has the details"
    )


def _plain(value: Any) -> Any:  # JSON
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value][:100]
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    return str(value)[:LONGEST_TEXT]
