"""Errors as the Docker Engine API answers them: a status and `{"message": ...}`."""

from __future__ import annotations


class DockerError(Exception):
    """An answer that is an error. The text goes to people as it is: the command prints it after its own prefix."""

    status = 500

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        if status is not None:
            self.status = status


class BadParameter(DockerError):
    status = 400


class NotThere(DockerError):
    status = 404


class Conflict(DockerError):
    status = 409
