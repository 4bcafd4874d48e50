"""Questions that an agent answers at once, without a change to the node and without Celery.

Request: an entry of the stream `wf:streams:<node>` with the field `q`: `<signature>.<JSON>` of a `Query`. Answer: one element on the list
`wf:answer:<id>`: `<signature>.<JSON>` of an `Answer`, signed for the purpose `answer:<id>`.

| kind | params | result |
|---|---|---|
| `system.info` | | versions, runtime, storage, limits of the node |
| `system.usage` | | disk usage by kind |
| `events.after` | `seq`, `limit`<=500 | `{"epoch", "last_seq", "events": [NodeEvent]}` |
| `events.of` | `subject`, `limit` | `{"events": [...]}` |
| `records.list` | `type`: image, container, network, volume | `{"epoch", "last_seq", "records": [...]}`, to confirm everything |
| `operation.get` | `ids` | `{"operations": {id: {"status", "kind", "fence", "attempt", "result", "error"}}}` |
| `operation.log` | `id`, `offset`, `limit` | `{"entries": [...], "offset", "size_bytes", "end": bool}` |
| `container.inspect` `image.inspect` `network.inspect` `volume.inspect` | `ref` | the record |
| `container.top` | `container`, `ps_args` | `{"titles", "processes"}` |
| `container.stats` | `container` | one sample |
| `container.changes` | `container` | `{"changes": [{"kind", "path"}]}` |
| `container.stat` | `container`, `path` | `{"name", "size_bytes", "mode", "mtime", "link_target"}` |
| `container.list_files` | `container`, `path` | `{"entries": [...]}` |
| `container.exec_inspect` | `exec_id` | `{"running", "exit_code", "pid"}` |
| `container.resize` | `container`, `width`, `height` | null |
| `container.exec_resize` | `exec_id`, `width`, `height` | null |
| `container.timeline` | `container`, `limit` | `{"events": [...]}` |
| `image.history` `image.layers` | `ref` | `{"history": [...]}`, `{"layers": [...]}` |
| `image.layer_files` | `ref`, `index` | `{"files": [...]}` |
| `image.search` | `term`, `limit`, `registries` sealed | `{"results": [...]}` |
| `image.remote` | `reference`, `registries` sealed | `{"media_type", "digest", "size_bytes", "platforms"}` in a registry |
| `registry.login` | `registries` sealed, one | `{"status"}`: the credentials are good |
| `registry.tags` | `reference`, `registries` sealed | `{"tags"}` |
| `volume.browse` | `volume`, `path` | `{"entries": [...]}` |
| `network.probe` | `container`, `name`, `port` | what a process inside sees |
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from workers.contracts.names import check_id
from workers.contracts.problems import Problem
from workers.contracts.signing import NodeKey
from workers.contracts.values import ContractError, dumps, from_json, loads, to_json

PURPOSE = "query"
TIMEOUT_S = 10.0
CLOCK_SKEW_S = 60.0  # how far the clocks of two machines may be apart
MAX_ANSWER_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True)
class Query:
    """`expires_at` is when the asker stops waiting, by its own clock; `sealed` are secret params, encrypted."""

    id: str
    node: str
    kind: str
    expires_at: float
    params: dict[str, Any] = field(default_factory=dict)  # judged by the handler of the kind
    sealed: str = ""


@dataclass(frozen=True)
class Answer:
    """`problem` is None exactly when it worked."""

    id: str
    result: Any = None  # any JSON; the table above says which
    problem: Problem | None = None


def write_query(key: NodeKey, query: Query) -> str:
    return key.wrap(PURPOSE, dumps(to_json(query)))


def read_query(key: NodeKey, text: str | bytes) -> Query:
    """Verify and parse a query; one that is stale or for another node raises `ContractError`."""
    query = from_json(Query, loads(key.unwrap(PURPOSE, text)))
    check_id(query.id)
    if query.node != key.node:
        raise ContractError(f"query for node {query.node!r} came to {key.node!r}")
    if not time.time() - CLOCK_SKEW_S < query.expires_at < time.time() + 600 + CLOCK_SKEW_S:
        raise ContractError("query is stale")
    return query


def write_answer(key: NodeKey, answer: Answer) -> str:
    return key.wrap(f"answer:{answer.id}", dumps(to_json(answer)))


def read_answer(key: NodeKey, query_id: str, text: str | bytes) -> Answer:
    """Verify and parse the answer to `query_id`, else raise `ContractError`."""
    return from_json(Answer, loads(key.unwrap(f"answer:{query_id}", text)))
