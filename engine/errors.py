"""Errors of the engine: a class says what the *caller* can do about it.

```text
EngineError (code, retryable, hint, context)
├── NotFound                 the named thing is not on this node
│   └── ImageNotFound · ContainerNotFound · NetworkNotFound · VolumeNotFound · ExecNotFound
├── AlreadyExists            the name is taken
├── WrongState               the thing is there, but its state forbids the verb
│   └── InUse                something else still needs it
├── Denied                   policy forbids it, whoever asks
├── InvalidInput             the request can never succeed as it is
│   └── BadReference · BadDigest · BadArchive (entry) · DockerfileError (line) · BadSpec
├── Unsupported              this host or this engine cannot do it
├── Unavailable (retryable)  a peer or a resource is not there just now
│   ├── RegistryError        the registry answered with an error
│   └── NoSpace              the disk or a quota is full
├── CommandFailed            a program we started failed (argv, status, stderr)
├── Corrupt                  what lies on disk is not what was written
└── Cancelled                somebody asked for the work to stop
```

A message is lower case without a full stop and names the thing; `hint` says what a human can do next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar


class EngineError(Exception):
    """Root of all errors that the engine raises on purpose."""

    code: ClassVar[str] = "engine_error"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str = "", **context: Any) -> None:  # any JSON value
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.context = context


class NotFound(EngineError):
    code = "not_found"


class ImageNotFound(NotFound):
    code = "image_not_found"


class ContainerNotFound(NotFound):
    code = "container_not_found"


class NetworkNotFound(NotFound):
    code = "network_not_found"


class VolumeNotFound(NotFound):
    code = "volume_not_found"


class ExecNotFound(NotFound):
    code = "exec_not_found"


class AlreadyExists(EngineError):
    code = "already_exists"


class WrongState(EngineError):
    code = "wrong_state"


class InUse(WrongState):
    code = "in_use"


class Denied(EngineError):
    code = "denied"


class InvalidInput(EngineError):
    code = "invalid_input"


class BadReference(InvalidInput):
    code = "bad_reference"


class BadDigest(InvalidInput):
    code = "bad_digest"


class BadSpec(InvalidInput):
    code = "bad_spec"


class BadArchive(InvalidInput):
    """An archive was refused; `entry` is the name of the member at fault, as written in the archive."""

    code = "bad_archive"

    def __init__(self, message: str, *, entry: str = "", hint: str = "", **context: Any) -> None:
        super().__init__(message, hint=hint, entry=entry, **context)
        self.entry = entry


class DockerfileError(InvalidInput):
    """A Dockerfile cannot be built as written; `line` and `column` count from 1, 0 means unknown."""

    code = "dockerfile_error"

    def __init__(
        self,
        message: str,
        *,
        line: int = 0,
        column: int = 0,
        file: str = "Dockerfile",
        hint: str = "",
        **context: Any,
    ) -> None:
        super().__init__(message, hint=hint, line=line, column=column, file=file, **context)
        self.line = line
        self.column = column
        self.file = file


class Unsupported(EngineError):
    code = "unsupported"


class Unavailable(EngineError):
    code = "unavailable"
    retryable = True


class RegistryError(Unavailable):
    """A registry refused or failed; `status` is its HTTP status, 0 when there was no answer."""

    code = "registry_error"

    def __init__(self, message: str, *, status: int = 0, hint: str = "", **context: Any) -> None:
        super().__init__(message, hint=hint, status=status, **context)
        self.status = status


class NoSpace(Unavailable):
    code = "no_space"


class CommandFailed(EngineError):
    """A program ended with an error; `status` is its exit status (negative: the signal)."""

    code = "command_failed"

    def __init__(
        self, message: str, *, argv: Sequence[str] = (), status: int = 0, stderr: str = "", hint: str = ""
    ) -> None:
        super().__init__(message, hint=hint, argv=list(argv), status=status, stderr=stderr)
        self.argv = list(argv)
        self.status = status
        self.stderr = stderr


class Corrupt(EngineError):
    code = "corrupt"


class Cancelled(EngineError):
    code = "cancelled"
