"""The one seam between the web site and the queue.

`send(operation)` hands an operation to its node or raises `NotSent`; `settings.OPERATION_SENDER` names the class, so
tests put a recording one here.
"""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from django.conf import settings
from django.utils.module_loading import import_string

from webapp.core.sealing import unseal
from webapp.operations.models import Operation
from workers import client
from workers.contracts.base import Contract, contract_of
from workers.contracts.problems import NodeError
from workers.contracts.values import from_json


class NotSent(Exception):
    """Nothing was sent; the operation stays in the outbox."""


class Sender(Protocol):
    def send(self, operation: Operation) -> None: ...

    def cancel(self, operation: Operation) -> None: ...

    def query(self, node: str, kind: str, params: dict[str, Any], secrets: dict[str, Any]) -> Any: ...


def contract_from(operation: Operation) -> Contract:
    """Return the contract of an operation, its secrets opened."""
    return from_json(contract_of(operation.kind), {**operation.payload, **unseal(operation.sealed_payload)})


class CelerySender:
    """Sends through Redis."""

    def send(self, operation: Operation) -> None:
        try:
            client.submit(contract_from(operation), operation.node.name, operation.id, fence=operation.fence)
        except (client.BrokerDown, OSError) as error:
            raise NotSent(str(error)) from error

    def cancel(self, operation: Operation) -> None:
        try:
            client.cancel(operation.node.name, operation.id)
        except (client.BrokerDown, OSError) as error:
            raise NotSent(str(error)) from error

    def query(self, node: str, kind: str, params: dict[str, Any], secrets: dict[str, Any]) -> Any:
        return client.query(node, kind, params, secrets=secrets)


class RecordingSender:
    """Keeps what it is given (tests). `down` makes it refuse; `answers` maps a query's kind to a result or a `NodeError`."""

    sent: ClassVar[list[tuple[str, int, Contract]]] = []
    cancelled: ClassVar[list[str]] = []
    asked: ClassVar[list[tuple[str, str, dict[str, Any]]]] = []
    answers: ClassVar[dict[str, Any]] = {}
    down: ClassVar[bool] = False

    def send(self, operation: Operation) -> None:
        if type(self).down:
            raise NotSent("down")
        self.sent.append((operation.id, operation.fence, contract_from(operation)))

    def cancel(self, operation: Operation) -> None:
        if type(self).down:
            raise NotSent("down")
        self.cancelled.append(operation.id)

    def query(self, node: str, kind: str, params: dict[str, Any], secrets: dict[str, Any]) -> Any:
        self.asked.append((node, kind, params))
        answer = self.answers.get(kind, {})
        if isinstance(answer, NodeError):
            raise answer
        return answer(params) if callable(answer) else answer

    @classmethod
    def reset(cls) -> None:
        cls.sent.clear()
        cls.cancelled.clear()
        cls.asked.clear()
        cls.answers.clear()
        cls.down = False


def sender() -> Sender:
    """Return the configured sender."""
    return import_string(settings.OPERATION_SENDER)()
