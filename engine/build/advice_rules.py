"""The rules of the advice, as data: what each is called and how grave it is. `docs/advice/<id>.md` explains each.

`# check=skip=<id>,<id>` (or `skip=all`) at the head of a Dockerfile silences rules.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """One rule. `severity`: `warning` for what is likely wrong, `info` for what could be better."""

    id: str
    title: str
    severity: str


RULES = {
    rule.id: rule
    for rule in (
        Rule("merge-run", "RUN instructions that could be one", "info"),
        Rule("package-cache", "package caches left in a layer", "info"),
        Rule("build-tools", "build tools in the final stage", "info"),
        Rule("hidden-files", "files hidden by a later layer", "info"),
        Rule("smaller-base", "a smaller base", "info"),
        Rule("cache-order", "an order that wastes the cache", "info"),
        Rule("ignore-upload", "an upload dominated by what should be ignored", "info"),
        Rule("secret-variable", "a secret in ARG or ENV", "warning"),
        Rule("root-user", "no USER: the image runs as root", "info"),
        Rule("floating-base", "a base without a fixed version", "info"),
        Rule("undefined-variable", "a variable that nobody defines", "warning"),
        Rule("several-commands", "CMD, ENTRYPOINT or HEALTHCHECK given twice", "warning"),
        Rule("shell-form", "CMD or ENTRYPOINT in shell form", "info"),
        Rule("relative-workdir", "a relative WORKDIR without a known beginning", "info"),
        Rule("legacy-form", "NAME VALUE instead of NAME=VALUE", "info"),
        Rule("maintainer", "MAINTAINER is no longer used", "info"),
        Rule("duplicate-stage", "two stages with one name", "warning"),
        Rule("empty-continuation", "an empty line inside an instruction", "info"),
        Rule("ignored-source", "COPY of something that is ignored", "warning"),
    )
}


def skipped(directive: str) -> frozenset[str]:
    """Return the ids that a `check` directive silences."""
    for option in directive.split(";"):
        name, _, value = option.strip().partition("=")
        if name.strip().lower() == "skip":
            names = {part.strip().lower() for part in value.split(",")}
            return frozenset(RULES) if "all" in names else frozenset(names)
    return frozenset()
