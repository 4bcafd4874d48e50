"""The distribution protocol (registries): authentication, transport with retries, and the verbs of the protocol."""

from engine.registry.client import Document, Registries, RegistryClient
from engine.registry.errors import AccessRefused, BadContent, Interrupted, NotARegistry, Untrusted
from engine.registry.retry import RetryPolicy, Timeouts
from engine.registry.settings import Credentials, RegistrySettings

__all__ = [
    "AccessRefused",
    "BadContent",
    "Credentials",
    "Document",
    "Interrupted",
    "NotARegistry",
    "Registries",
    "RegistryClient",
    "RegistrySettings",
    "RetryPolicy",
    "Timeouts",
    "Untrusted",
]
