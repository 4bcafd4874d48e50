"""JSON, parsed once and strictly: what was judged is what is used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, BinaryIO

from rest_framework.parsers import BaseParser

from webapp.core.errors import Invalid, WrongMedia
from workers.contracts.values import ContractError, loads


class StrictJSONParser(BaseParser):
    """Refuses duplicate names, NaN, great depth, wrong encodings, and anything that is compressed."""

    media_type = "application/json"

    def parse(
        self, stream: BinaryIO, media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> Any:
        request = (parser_context or {}).get("request")
        if request is not None and request.headers.get("Content-Encoding", "identity") != "identity":
            raise WrongMedia("a compressed body is not accepted here")
        data = stream.read()
        if not data.strip():
            return {}
        try:
            return loads(data.decode("utf-8"))
        except (ContractError, UnicodeDecodeError) as error:
            raise Invalid(f"the body is no valid JSON: {error}", code="bad_json") from error


class RawParser(BaseParser):
    """For endpoints whose body is a file: the view takes it from the spool, nothing is parsed."""

    media_type = "*/*"

    def parse(
        self, stream: BinaryIO, media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> Any:
        return {}
