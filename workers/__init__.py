"""What runs on a node, and how the web site asks for it.

`contracts` (data, standard library only) and `client` are for everybody; `tasks` and `agent` run as root on the node and
are the only callers of the engine.
"""
