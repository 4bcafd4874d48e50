"""The tester's answer as a trace: what was asked, what came back, in what time, and why it went no further."""

from __future__ import annotations

from typing import Any

REASONS = {
    "unknown_name": "the name is not known: no container on its networks is called so, and the host's resolvers do not know it either",
    "refused": "refused: nothing listens on that port there",
    "filtered": "no answer: something on the way drops it, or the address is not on a network that they share",
    "unreachable": "there is no way to that address from inside",
    "timeout": "no answer in time",
    "other_network": "it is on another network",
}


def trace(answer: dict[str, Any], name: str, port: int) -> dict[str, Any]:
    """Return `{ok, steps: [{ok, text, note, ms}]}` for what a node said."""
    if answer.get("steps"):
        steps = [
            {
                "ok": bool(step.get("ok")),
                "text": _sentence(step.get("text", "")),
                "note": _sentence(step.get("detail") or step.get("hint") or ""),
                "ms": step.get("duration_ms"),
            }
            for step in answer["steps"]
        ]
        return {"ok": all(step["ok"] for step in steps), "steps": steps}
    return _from_facts(answer, name, port)


def _from_facts(answer: dict[str, Any], name: str, port: int) -> dict[str, Any]:
    addresses = [
        str(item)
        for item in answer.get("addresses") or ([answer["address"]] if answer.get("address") else [])
    ]
    server = answer.get("server") or answer.get("resolver") or "its name server"
    resolve_ms = answer.get("resolve_ms") or _ms(answer.get("resolve_s"))
    steps = [{"ok": True, "text": f"Asks {server} for {name}", "note": "", "ms": resolve_ms}]
    if not addresses:
        steps.append({"ok": False, "text": "No address", "note": _reason(answer, "unknown_name"), "ms": None})
        return {"ok": False, "steps": steps}
    steps.append(
        {
            "ok": True,
            "text": f"Answer {', '.join(addresses)}",
            "note": str(answer.get("owner") or answer.get("member") or ""),
            "ms": None,
        }
    )
    if not port:
        return {"ok": True, "steps": steps}
    connected = bool(answer.get("connected", answer.get("ok")))
    note = "" if connected else _reason(answer, "refused")
    connect_ms = answer.get("connect_ms") or _ms(answer.get("connect_s"))
    steps.append(
        {
            "ok": connected,
            "text": f"Port {port} {'answers' if connected else 'does not answer'}",
            "note": note,
            "ms": connect_ms,
        }
    )
    return {"ok": connected, "steps": steps}


def _ms(seconds: Any) -> float | None:
    return float(seconds) * 1000 if seconds is not None else None


def _reason(answer: dict[str, Any], default: str) -> str:
    reason = str(answer.get("reason") or answer.get("error") or default)
    words = REASONS.get(reason, reason)
    detail = str(answer.get("detail") or answer.get("hint") or "")
    return _sentence(f"{words}; {detail}" if detail else words)


def _sentence(text: Any) -> str:
    words = str(text)
    return words[:1].upper() + words[1:]
