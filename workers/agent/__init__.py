"""The agent: one process a node that watches over what lives there. `python -m workers.agent`."""
