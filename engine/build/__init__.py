"""Images from Dockerfiles.

```text
parser → instructions → plan (graph of stages) → solver → steps ──► ops (run, transfer, mounts)
   shell, heredoc         expansion, variables     cache ◄──┘          trees, context, place
```

`Builder` is the way in; `sweep_dead_builds` removes what killed builds left; `apply_changes` is for committing a container.
"""

from engine.build.builder import Builder
from engine.build.cache import SCHEMA as CACHE_SCHEMA
from engine.build.changes import apply_changes
from engine.build.layerlook import SCHEMA as LOOKS_SCHEMA
from engine.build.request import Advice, BuildLimits, BuildRequest, BuildResult, StepResult
from engine.build.workspace import live_builds, sweep_dead_builds

SCHEMAS = (CACHE_SCHEMA, LOOKS_SCHEMA)

__all__ = [
    "SCHEMAS",
    "Advice",
    "BuildLimits",
    "BuildRequest",
    "BuildResult",
    "Builder",
    "StepResult",
    "apply_changes",
    "live_builds",
    "sweep_dead_builds",
]
