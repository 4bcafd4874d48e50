"""The `--name=value` words of an instruction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.build.suggest import did_you_mean


class FlagError(ValueError):
    """A flag is wrong; `token` is what to point at, `hint` what was probably meant."""

    def __init__(self, message: str, token: str, hint: str = "") -> None:
        super().__init__(message)
        self.token = token
        self.hint = hint


@dataclass
class Flags:
    """Values of flags by name. Flags in `texts` need a value, those in `switches` are true or false, `lists` repeat."""

    values: dict[str, str] = field(default_factory=dict)
    switches: dict[str, bool] = field(default_factory=dict)
    lists: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def text(self, name: str, default: str = "") -> str:
        return self.values.get(name, default)

    def switch(self, name: str) -> bool | None:
        return self.switches.get(name)

    def all(self, name: str) -> tuple[str, ...]:
        return self.lists.get(name, ())


def read_flags(
    words: Sequence[str],
    *,
    texts: Sequence[str] = (),
    switches: Sequence[str] = (),
    lists: Sequence[str] = (),
) -> Flags:
    """Sort flag words into values; raise `FlagError` for what is unknown, repeated or without its value."""
    flags = Flags()
    for word in words:
        name, separator, value = word[2:].partition("=")
        shown = f"--{name}"
        if name in flags.values or name in flags.switches:
            raise FlagError(f"duplicate flag specified: {shown}", shown)
        if name in switches:
            flags.switches[name] = _truth(shown, bool(separator), value)
        elif name in texts or name in lists:
            if not separator:
                raise FlagError(f"missing a value on flag: {shown}", shown)
            if name in texts:
                flags.values[name] = value
            else:
                flags.lists[name] = (*flags.lists.get(name, ()), value)
        else:
            raise FlagError(f"unknown flag: {shown}", shown, did_you_mean(name, (*texts, *switches, *lists)))
    return flags


def _truth(shown: str, has_value: bool, value: str) -> bool:
    if has_value and not value:
        raise FlagError(f"missing a value on flag: {shown}", shown)
    if value.lower() not in ("", "true", "false"):
        raise FlagError(f"expecting boolean value for flag {shown}, not: {value}", shown)
    return value.lower() != "false"
