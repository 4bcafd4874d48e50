"""The tester's answer as a trace: what was asked, what came back, in what time, and why it went no further."""

from __future__ import annotations

from typing import Any

WORDS = {
    "ok": "answers",
    "name_unknown": "the name is not known",
    "resolver_silent": "the name server does not answer",
    "refused": "refused",
    "filtered": "no answer",
    "unreachable": "cannot be reached from inside",
    "other_network": "is on another network",
    "no_answer": "said nothing, as udp may",
}


def trace(answer: dict[str, Any], name: str, port: int) -> dict[str, Any]:
    """Return `{ok, steps: [{ok, text, note, ms}]}` for what a node said (the engine's `Trial`)."""
    outcome = str(answer.get("outcome") or "ok")
    addresses = [str(item) for item in answer.get("addresses") or []]
    why = ". ".join(_sentence(text) for text in (answer.get("detail"), answer.get("hint")) if text)
    steps = []
    if answer.get("resolve_s") or outcome in ("name_unknown", "resolver_silent") or addresses != [name]:
        steps.append({"ok": True, "text": f"Asks for {name}", "note": "", "ms": _ms(answer.get("resolve_s"))})
        if not addresses:
            steps.append(
                {"ok": False, "text": _sentence(WORDS.get(outcome, outcome)), "note": why, "ms": None}
            )
            return {"ok": False, "steps": steps}
        steps.append({"ok": True, "text": f"Answer {', '.join(addresses)}", "note": "", "ms": None})
    attempts = answer.get("attempts") or []
    for attempt in attempts:
        well = attempt.get("outcome") == "ok"
        words = WORDS.get(str(attempt.get("outcome")), str(attempt.get("outcome")))
        last = attempt is attempts[-1]
        text = f"Port {port} of {attempt.get('address')}: {words}"
        steps.append(
            {
                "ok": well,
                "text": text,
                "note": why if last and not well else "",
                "ms": _ms(attempt.get("duration_s")),
            }
        )
    if outcome != "ok" and not attempts:
        steps.append({"ok": False, "text": _sentence(WORDS.get(outcome, outcome)), "note": why, "ms": None})
    return {"ok": outcome == "ok", "steps": steps}


def _ms(seconds: Any) -> float | None:
    return float(seconds) * 1000 if seconds else None


def _sentence(text: Any) -> str:
    words = str(text)
    return words[:1].upper() + words[1:]
