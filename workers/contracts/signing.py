"""Signatures between web and node. Redis carries the messages but is trusted with nothing.

Each node has one key of 32 bytes in a file that root and the group of the web account may read. For every purpose a key of
its own is derived, so a signature made for one purpose is worth nothing for another.
"""

from __future__ import annotations

import hashlib
import hmac

from workers.contracts.values import ContractError

KEY_BYTES = 32


class BadSignature(ContractError):
    """The message was not written by a holder of the node's key, or not for this purpose."""


class NodeKey:
    """The shared key of one node; see `workers.keys` for the file."""

    def __init__(self, node: str, secret: bytes) -> None:
        if len(secret) != KEY_BYTES:
            raise ValueError(f"a node's key has {KEY_BYTES} bytes")
        self.node = node
        self._secret = secret

    def derive(self, purpose: str) -> bytes:
        """Return the key for one purpose: `task`, `query`, `event`, `cancel`, `seal`, `stream:<id>` ..."""
        return hmac.digest(self._secret, f"wharfinger/1/{self.node}/{purpose}".encode(), hashlib.sha256)

    def sign(self, purpose: str, body: bytes) -> str:
        """Return the hex signature of `body` for a purpose."""
        return hmac.digest(self.derive(purpose), body, hashlib.sha256).hex()

    def verify(self, purpose: str, body: bytes, signature: str) -> None:
        """Raise `BadSignature` unless `signature` is that of `body`."""
        if not isinstance(signature, str) or not signature.isascii():
            raise BadSignature("signature is no text")
        if not hmac.compare_digest(self.sign(purpose, body), signature):
            raise BadSignature(f"signature does not fit the key of node {self.node!r}")

    def wrap(self, purpose: str, body: str) -> str:
        """Return `<signature>.<body>`: the bytes that are judged are the bytes that are used."""
        return f"{self.sign(purpose, body.encode())}.{body}"

    def unwrap(self, purpose: str, text: str | bytes) -> str:
        """Return the body of a wrapped message, else raise `BadSignature`."""
        try:
            text = text.decode() if isinstance(text, bytes) else text
        except UnicodeDecodeError as error:
            raise BadSignature("message is no text") from error
        if not isinstance(text, str):
            raise BadSignature("message is no text")
        signature, _, body = text.partition(".")
        self.verify(purpose, body.encode(), signature)
        return body
