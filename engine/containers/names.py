"""Names of containers: which ones are allowed, and one for those that ask for none."""

from __future__ import annotations

import re
import secrets

from engine.errors import BadSpec

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}\Z")
_ID = re.compile(r"[0-9a-f]{64}\Z")

_HOW = (
    "ample bold brave brisk broad calm civil clean clear crisp deep deft eager early fair firm fleet fond frank fresh gentle glad "
    "grand hale handy hardy keen kind late light lively loyal lucid mellow merry mild neat nimble noble plain prompt proud quick "
    "quiet rapid ready rich ripe round sharp shy silent sleek smart snug sober solid sound spry steady stout sunny swift tidy trim "
    "true vivid warm wary wide wise witty young zesty"
).split()
_WHAT = (
    "anchor ballast barge beacon berth bilge binnacle boom bow bridge brig buoy cable canal capstan cargo clipper cove crane cutter "
    "davit deck derrick dock dory ebb ferry fjord galley gangway gull halyard harbor hatch hawser helm heron hoist hull inlet jetty "
    "keel ketch lagoon ledger lighter lock mast mole mooring oar pennant pier pilot pontoon port prow quay raft reef rigging rudder "
    "sail schooner sextant shoal skiff slip sloop spar stern strait tide tiller tug wake warehouse wharf winch yard yawl"
).split()


def check_name(name: str) -> str:
    """Return the name without a leading slash if it is allowed, else raise `BadSpec`."""
    name = name.removeprefix("/")
    if not _NAME.match(name):
        raise BadSpec(
            f"not a container name: {name[:64]!r}",
            hint="a letter or digit, then letters, digits, '_', '.' or '-', at most 128",
        )
    return name


def check_id(container_id: str) -> str:
    """Return the id if it is 64 hex digits, else raise `BadSpec`."""
    if not _ID.match(container_id):
        raise BadSpec(f"not a container id: {container_id[:80]!r}")
    return container_id


def random_name() -> str:
    """Return a name that is easy to say; two in some thousand are the same."""
    return f"{secrets.choice(_HOW)}_{secrets.choice(_WHAT)}"


def random_id() -> str:
    return secrets.token_hex(32)
