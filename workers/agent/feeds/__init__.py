"""Feeds: what streams of each kind carry. `workers.contracts.streams` has the table of kinds."""
