"""Names for containers that got none: two words of the harbour."""

from __future__ import annotations

import random

_HOW = (
    "amber brisk calm clear coastal copper dusky early eastern fair fresh gentle glad golden grey high keen late light lively "
    "lone long merry misty mellow northern open patient plain proud quick quiet ready salty silver slow small southern stout "
    "sunny swift tall tidal true upright warm western wide windy young"
).split()  # fmt: skip
_WHAT = (
    "anchor barge beacon berth boat bollard boom bow brig buoy canal cargo chart clipper coble compass crane crate current cutter "
    "davit deck derrick dinghy dock dory ferry fender gull halyard harbour haven hawser heron hoist jetty keel ketch lantern "
    "lighter lock lugger mast mooring oar otter packet pier pilot pontoon port quay rigging rope rudder sail schooner seal "
    "sextant shore skiff slip sloop spar stern tern tide tiller trawler tug wharf winch yawl"
).split()  # fmt: skip


def make_name() -> str:
    """Return a name like `brisk_lantern`; the caller sees to it that it is free."""
    return f"{random.choice(_HOW)}_{random.choice(_WHAT)}"
