"""Networks of containers: bridges, addresses, names, ports, rules.

`NetworkManager` is the way in. It gives a network namespace its interfaces and knows nothing of containers but an id.
"""

from __future__ import annotations

from engine.network.manager import NetworkManager
from engine.network.model import DEFAULT_NETWORK, Network, NetworkSpec, Subnet, SubnetSpec
from engine.network.store import SCHEMA

__all__ = ["DEFAULT_NETWORK", "SCHEMA", "Network", "NetworkManager", "NetworkSpec", "Subnet", "SubnetSpec"]
