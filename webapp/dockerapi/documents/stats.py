"""Statistics of a container: ContainerStatsResponse, from a sample that the node took."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from webapp.dockerapi.values import ZERO_TIME, rfc3339

Sample = Mapping[str, Any]  # JSON


def stats_document(record: Mapping[str, Any], sample: Sample, before: Sample | None) -> dict[str, Any]:
    """Return the document; `before` is the sample of a second ago, from which clients compute the share of a CPU."""
    memory = sample.get("memory") or {}
    before = before or sample.get("previous") or {}
    return {
        "id": record["id"],
        "name": "/" + record["name"],
        "read": rfc3339(sample.get("time") or sample.get("time_s") or 0),
        "preread": rfc3339(before.get("time") or 0) if before else ZERO_TIME,
        "num_procs": 0,
        "pids_stats": {
            "current": _whole(sample, "pids"),
            **({"limit": sample["pids_limit"]} if sample.get("pids_limit") else {}),
        },
        "cpu_stats": _cpu(sample),
        "precpu_stats": _cpu(before),
        "memory_stats": {
            "usage": _whole(memory, "usage_bytes"),
            "limit": _whole(memory, "limit_bytes"),
            "stats": {
                "inactive_file": _whole(memory, "inactive_file_bytes"),
                "total_inactive_file": _whole(memory, "inactive_file_bytes"),
            },
        }
        if memory
        else {},
        "blkio_stats": _blocks(sample.get("block_io") or {}),
        "storage_stats": {},
        "networks": {name: _interface(values) for name, values in (sample.get("networks") or {}).items()},
    }


def no_stats(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the engine says of a container that does not run: nothing was read, all is zero."""
    return {**stats_document(record, {}, None), "read": ZERO_TIME}


def _cpu(sample: Sample) -> dict[str, Any]:
    cpu = sample.get("cpu") or {}
    return {
        "cpu_usage": {
            "total_usage": _whole(cpu, "usage_ns"),
            "usage_in_kernelmode": _whole(cpu, "kernel_ns"),
            "usage_in_usermode": _whole(cpu, "user_ns"),
        },
        "system_cpu_usage": _whole(cpu, "system_ns"),
        "online_cpus": _whole(cpu, "online"),
        "throttling_data": {
            "periods": _whole(cpu, "periods"),
            "throttled_periods": _whole(cpu, "throttled_periods"),
            "throttled_time": _whole(cpu, "throttled_ns"),
        },
    }


def _blocks(blocks: Sample) -> dict[str, Any]:
    rows = [
        {"major": 0, "minor": 0, "op": op, "value": _whole(blocks, key)}
        for op, key in (("read", "read_bytes"), ("write", "write_bytes"))
    ]
    empty = (
        "io_serviced_recursive",
        "io_queue_recursive",
        "io_service_time_recursive",
        "io_wait_time_recursive",
    )
    return {
        "io_service_bytes_recursive": rows,
        **dict.fromkeys((*empty, "io_merged_recursive", "io_time_recursive", "sectors_recursive")),
    }


def _interface(values: Sample) -> dict[str, int]:
    return {
        f"{way}_{what}": _whole(values, f"{way}_{what}")
        for way in ("rx", "tx")
        for what in ("bytes", "packets", "errors", "dropped")
    }


def _whole(values: Sample, key: str) -> int:
    value = values.get(key)
    return int(value) if isinstance(value, int | float) else 0
