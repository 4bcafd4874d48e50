"""What the web site calls: send work to a node, ask it something, stop work.

    client.submit(ContainerStart(container=record.id), node="local", operation_id=operation.id)

Nothing here imports tasks or the engine: tasks are sent by name. `submit` returns when Redis has the message and raises
`BrokerDown` otherwise, so a caller can keep the operation for another try.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis
import redis.asyncio

from workers import broker
from workers.contracts import envelope, names, queries
from workers.contracts.base import Contract, contract_of, task_name
from workers.contracts.events import Heartbeat, read_heartbeat
from workers.contracts.problems import NodeError, NodeSilent
from workers.contracts.signing import NodeKey
from workers.contracts.values import ContractError
from workers.keys import home_folder, load_key, seal

if TYPE_CHECKING:
    from celery import Celery

CANCEL_KEPT_S = 24 * 3600
_guard = threading.Lock()


class BrokerDown(Exception):
    """Redis did not take the message; nothing was sent."""


def submit(
    contract: Contract, node: str, operation_id: str, *, fence: int = 1, deadline_s: float | None = None
) -> None:
    """Send `contract` to `node` as the operation `operation_id` (a UUID or hex id, also the Celery task's id).

    Sending the same operation again is safe: the node does it once. Count `fence` up with every sending. The operation's
    progress and outcome come back as events. Raises `BrokerDown`, or `FileNotFoundError` for a node without a key.
    """
    key = node_key(node)
    hidden = seal(key, envelope.split(contract)[1], operation_id)
    text = envelope.write(
        key, contract, operation_id=operation_id, fence=fence, sealed=hidden, deadline_s=deadline_s
    )
    send_envelope(contract.KIND, node, operation_id, text)


def send_envelope(kind: str, node: str, operation_id: str, text: str) -> None:
    """Put a written envelope on the node's queue; the agent does that again with what a dead worker left."""
    from kombu.exceptions import OperationalError

    queue = names.queue(node, contract_of(kind).LANE)
    try:
        _app().send_task(task_name(kind), args=[text], task_id=operation_id, queue=queue, ignore_result=True)
    except (OperationalError, redis.RedisError, OSError) as error:
        raise BrokerDown("the queue does not take work just now") from error


def cancel(node: str, operation_id: str) -> None:
    """Ask the node to stop an operation, waiting or running; its outcome says whether that came in time."""
    signed = node_key(node).sign("cancel", names.check_id(operation_id).encode())
    _guarded(lambda: connection().set(names.cancel_key(operation_id), signed, ex=CANCEL_KEPT_S))


def query(
    node: str,
    kind: str,
    params: dict[str, Any] | None = None,  # JSON, see workers.contracts.queries
    *,
    secrets: dict[str, Any] | None = None,
    timeout_s: float = queries.TIMEOUT_S,
) -> Any:
    """Ask the node's agent and return the result of the kind (`workers.contracts.queries` has the table).

    Raises `NodeError` when the agent answers with a problem, `NodeSilent` when nobody answers, `BrokerDown` without Redis.
    """
    key = node_key(node)
    query_id, question = write_question(key, kind, params or {}, secrets=secrets, timeout_s=timeout_s)
    entry: dict[Any, Any] = {"q": question}
    _guarded(
        lambda: connection().xadd(names.requests_key(node), entry, maxlen=REQUESTS_KEPT, approximate=True)
    )
    found = _guarded(lambda: connection().blpop([names.answer_key(query_id)], timeout=timeout_s))
    if found is None:
        raise NodeSilent(node)
    return result_of(queries.read_answer(key, query_id, found[1]))


def result_of(answer: queries.Answer) -> Any:  # JSON
    """Return an answer's result or raise its problem."""
    if answer.problem is not None:
        raise NodeError(answer.problem)
    return answer.result


def heartbeat(node: str) -> Heartbeat | None:
    """Return what the node's agent last said of itself, or None when it has been silent for ten seconds."""
    text = _guarded(lambda: connection().get(names.node_key(node)))
    try:
        return read_heartbeat(node_key(node), text) if text else None
    except ContractError:
        return None


REQUESTS_KEPT = 10_000


@functools.lru_cache(maxsize=64)
def _key(home: Path, node: str) -> NodeKey:
    return load_key(home, node)


def node_key(node: str) -> NodeKey:
    """Return the key of a node, read once a process."""
    return _key(home_folder(), names.check_node(node))


def connection() -> redis.Redis:
    """Return this process's client of Redis (safe to share between threads)."""
    return _connection(broker.redis_url(), os.getpid())


def async_connection() -> redis.asyncio.Redis:
    """Return a new client of Redis for the running event loop; who takes it closes it."""
    return broker.connect_async()


def write_question(
    key: NodeKey,
    kind: str,
    params: dict[str, Any],
    *,
    secrets: dict[str, Any] | None = None,
    timeout_s: float,
) -> tuple[str, str]:
    """Return the id of a new query and the text to send."""
    query_id = names.new_id()
    question = queries.Query(
        id=query_id,
        node=key.node,
        kind=kind,
        expires_at=time.time() + timeout_s,
        params=params,
        sealed=seal(key, secrets or {}, query_id),
    )
    return query_id, queries.write_query(key, question)


@functools.lru_cache(maxsize=4)
def _connection(url: str, pid: int) -> redis.Redis:
    return broker.connect(url)


def _app() -> Celery:
    with _guard:
        return _application(broker.redis_url(), os.getpid())


@functools.lru_cache(maxsize=4)
def _application(url: str, pid: int) -> Celery:
    return broker.make_app("wharfinger-client", url)


def _guarded(call: Callable[[], Any]) -> Any:  # what the call returns
    try:
        return call()
    except (redis.RedisError, OSError) as error:
        raise BrokerDown("redis does not answer") from error
