"""Wharfinger's native Linux container engine.

Plain Python: no Django, no Celery, no Redis. Layers, lowest first (a module imports only lower ones):

0. value types: `digest`, `reference`, `platform`, `events`, `errors`, `config`, `progress`
1. `oci` (documents of the OCI specifications as data), `linux` (the kernel), `db` (the engine's own metadata)
2. `content` (blobs), `snapshots` (overlayfs), `registry` (the distribution protocol)
3. `layers` (tar to folder and back)
4. `images`, `runtime`, `network`, `volumes`
5. `build`, `containers`
6. `engine.Engine`, the façade: the only thing that callers use
"""
