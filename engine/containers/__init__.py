"""Containers: what they are asked to be, what they are, and their whole life on this node."""
