"""Answers to queries: one function a kind, called in a thread. `workers.contracts.queries` has the table of kinds."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.registry.settings import RegistrySettings
from workers.agent.feeds.stats import sample_now
from workers.agent.journal import public
from workers.agent.requests import Ask
from workers.contracts.images import RegistryAccess
from workers.contracts.names import check_id
from workers.contracts.values import ContractError, from_json, loads
from workers.facade import EngineFacade
from workers.ledger import Ledger
from workers.records import file_record, to_record
from workers.tasks.progress import log_path
from workers.tasks.verbs import registries_of

Params = dict[str, Any]  # foreign JSON, judged by the getters below

MOST_EVENTS = 500
MOST_LOG_BYTES = 2 * 1024 * 1024


def make_asks(engine: EngineFacade, ledger: Ledger) -> dict[str, Ask]:
    """Return all questions that this node answers, by kind."""
    return {
        "system.info": lambda p: engine.info(),
        "system.usage": lambda p: to_record(engine.usage()),
        "events.after": lambda p: events_after(engine, p),
        "events.of": lambda p: events_of(engine, p),
        "records.list": lambda p: records_list(engine, p),
        "operation.get": lambda p: {
            "operations": ledger.status_of([check_id(item) for item in _list(p, "ids")])
        },
        "operation.log": lambda p: operation_log(engine.config.data_root, ledger, p),
        "container.inspect": lambda p: to_record(engine.container_get(ref=_text(p, "ref"))),
        "image.inspect": lambda p: to_record(engine.image_get(ref=_text(p, "ref"))),
        "network.inspect": lambda p: to_record(engine.network_get(ref=_text(p, "ref"))),
        "volume.inspect": lambda p: to_record(engine.volume_get(name=_text(p, "ref"))),
        "container.top": lambda p: to_record(
            engine.top(container=_text(p, "container"), ps_args=_text(p, "ps_args", "-ef"))
        ),
        "container.stats": lambda p: sample_now(engine, _text(p, "container")),
        "container.changes": lambda p: {
            "changes": to_record(engine.changes(container=_text(p, "container")))
        },
        "container.stat": lambda p: file_record(
            engine.archive_stat(container=_text(p, "container"), path=_text(p, "path"))
        ),
        "container.list_files": lambda p: {
            "entries": [
                file_record(item)
                for item in engine.list_files(container=_text(p, "container"), path=_text(p, "path"))
            ]
        },
        "container.resize": lambda p: engine.resize(
            container=_text(p, "container"), rows=_number(p, "height"), columns=_number(p, "width")
        ),
        "container.exec_resize": lambda p: engine.exec_resize(
            exec_id=check_id(_text(p, "exec_id")), rows=_number(p, "height"), columns=_number(p, "width")
        ),
        "container.exec_inspect": lambda p: exec_inspect(engine, p),
        "container.timeline": lambda p: timeline(engine, p),
        "kept_log.list": lambda p: {"logs": to_record(engine.kept_logs())},
        "image.history": lambda p: {"history": to_record(engine.image_history(ref=_text(p, "ref")))},
        "image.layers": lambda p: {"layers": to_record(engine.image_layers(ref=_text(p, "ref")))},
        "image.layer_files": lambda p: {
            "files": to_record(engine.image_layer_files(ref=_text(p, "ref"), index=_number(p, "index")))
        },
        "image.search": lambda p: {
            "results": to_record(
                engine.image_search(
                    term=_text(p, "term"), limit=_number(p, "limit", 25), registries=_registries(p)
                )
            )
        },
        "registry.login": lambda p: to_record(engine.registry_login(registry=_registries(p)[0])),
        "registry.tags": lambda p: {
            "tags": engine.registry_tags(reference=_text(p, "reference"), registries=_registries(p))
        },
        "image.remote": lambda p: to_record(
            engine.image_remote(reference=_text(p, "reference"), registries=_registries(p))
        ),
        "volume.browse": lambda p: {
            "entries": to_record(engine.volume_browse(volume=_text(p, "volume"), path=_text(p, "path", "/")))
        },
        "network.probe": lambda p: to_record(
            engine.network_probe(
                container=_text(p, "container"), name=_text(p, "name"), port=_number(p, "port", 0)
            )
        ),
    }


def events_after(engine: EngineFacade, p: Params) -> Params:
    limit = min(_number(p, "limit", MOST_EVENTS), MOST_EVENTS)
    found = engine.db.events_after(_number(p, "seq"), limit)
    return _events(engine, found)


def events_of(engine: EngineFacade, p: Params) -> Params:
    return _events(
        engine, engine.db.events_of(_text(p, "subject"), min(_number(p, "limit", MOST_EVENTS), MOST_EVENTS))
    )


def exec_inspect(engine: EngineFacade, p: Params) -> Params:
    record = engine.exec_inspect(exec_id=check_id(_text(p, "exec_id")))
    exited = record.status == "exited"
    return {
        "running": record.status == "running",
        "exit_code": record.exit_code if exited else None,
        "pid": record.pid,
        "container": record.container_id,
    }


def timeline(engine: EngineFacade, p: Params) -> Params:
    """Return what happened to a container with the log lines around it, oldest first."""
    container = engine.container_get(ref=_text(p, "container"))
    moments = engine.timeline(container=container.id, limit=min(_number(p, "limit", 200), 2000))
    return {
        "events": [{"type": "container", "subject": container.id, **to_record(moment)} for moment in moments]
    }


def _events(engine: EngineFacade, found: list[Any]) -> Params:
    events = [to_record(public(event, engine.config.node, engine.db.epoch)) for event in found]
    return {"epoch": engine.db.epoch, "last_seq": engine.db.last_seq(), "events": events}


def records_list(engine: EngineFacade, p: Params) -> Params:
    """Return all records of a type, with the journal's end as it was before they were read."""
    listers: dict[str, Callable[[], list[Any]]] = {
        "image": engine.image_list,
        "container": engine.container_list,
        "network": engine.network_list,
        "volume": engine.volume_list,
    }
    lister = listers.get(_text(p, "type"))
    if lister is None:
        raise ContractError(f"type must be one of {', '.join(listers)}")
    last_seq = engine.db.last_seq()
    return {"epoch": engine.db.epoch, "last_seq": last_seq, "records": to_record(lister())}


def operation_log(data_root: Path, ledger: Ledger, p: Params) -> Params:
    """Return whole entries of an operation's log from a byte offset on, and where they end."""
    operation, offset = check_id(_text(p, "id")), _number(p, "offset", 0)
    limit = min(_number(p, "limit", MOST_LOG_BYTES), MOST_LOG_BYTES)
    data, size = read_log(log_path(data_root, operation), offset, limit)
    known = ledger.status_of([operation]).get(operation)
    ended = known is not None and known["status"] != "running" and offset + len(data) >= size
    entries = [loads(line) for line in data.splitlines()]
    return {"entries": entries, "offset": offset + len(data), "size_bytes": size, "end": ended}


def read_log(path: Path, offset: int, limit: int) -> tuple[bytes, int]:
    """Return whole lines from `offset` on, and the size of the file (0 while there is none)."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(offset)
            data = file.read(limit)
    except FileNotFoundError:
        return b"", 0
    return data[: data.rfind(b"\n") + 1], size


def _registries(p: Params) -> list[RegistrySettings]:
    return registries_of([from_json(RegistryAccess, item, "registries") for item in _list(p, "registries")])


def _text(p: Params, name: str, default: str | None = None) -> str:
    value = p.get(name, default)
    if not isinstance(value, str):
        raise ContractError(f"{name} must be text")
    return value


def _number(p: Params, name: str, default: int | None = None) -> int:
    value = p.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ContractError(f"{name} must be a number")
    return value


def _list(p: Params, name: str) -> list[Any]:
    value = p.get(name, [])
    if not isinstance(value, list) or len(value) > 1000:
        raise ContractError(f"{name} must be a list")
    return value
