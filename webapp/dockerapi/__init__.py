"""The Docker Engine API, one more face of the same services.

Modules, bottom up: `values` (times, truth, durations as the API writes them), `filters`, `frames` (the multiplexed stream),
`registry_auth`, `create` (a create body becomes the one canonical spec), `documents` (records become API documents),
`hijack` (connections after `101 UPGRADED`), `views` and `urls`.
"""
