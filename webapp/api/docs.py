"""Words for the OpenAPI document: one decorator for views, small shapes for answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers

Handler = TypeVar("Handler", bound=Callable[..., Any])
Shape = dict[str, Any]

TEXT: Shape = {"type": "string"}
NUMBER: Shape = {"type": "integer"}
FLAG: Shape = {"type": "boolean"}
MOMENT: Shape = {"type": "string", "format": "date-time"}
MAYBE_MOMENT: Shape = {"type": "string", "format": "date-time", "nullable": True}
MAYBE_NUMBER: Shape = {"type": "integer", "nullable": True}
MAYBE_TEXT: Shape = {"type": "string", "nullable": True}
ANY: Shape = {"type": "object", "additionalProperties": True}
WORDS: Shape = {"type": "object", "additionalProperties": {"type": "string"}}


def shape(**fields: Shape) -> Shape:
    """Return the schema of an object with these fields."""
    return {"type": "object", "properties": fields}


def many(item: Shape) -> Shape:
    return {"type": "array", "items": item}


def page_of(item: Shape) -> Shape:
    """Return the schema of one page of a list."""
    return shape(results=many(item), next=MAYBE_TEXT)


OPERATION_BRIEF = shape(
    id=TEXT,
    kind=TEXT,
    status={"type": "string", "enum": ["queued", "running", "succeeded", "failed", "cancelled"]},
    url=TEXT,
)
BINARY: Shape = {"type": "string", "format": "binary"}

_ABOUT = {
    "wait": "Seconds to wait for the end of the work; the answer is then the final one",
    "node": "The node to ask (default: the default node)",
    "limit": "At most so many rows",
    "cursor": "`next` of the page before",
    "since": "ISO time, seconds since the epoch, or how long ago (10m, 2h)",
    "until": "ISO time, seconds since the epoch, or how long ago (10m, 2h)",
    "tail": "Only the last so many lines (`all`: every line)",
    "follow": "Go on with new lines until the reader leaves",
    "search": "Only what contains this text",
    "path": "Absolute path inside the container or volume",
    "force": "Also when it is in use or alive",
}


def describe(
    summary: str,
    *,
    answer: Shape | None = None,
    status: int = 200,
    body: type[serializers.Serializer[Any]] | Shape | None = None,
    query: tuple[str, ...] = (),
    work: bool = False,
    media: str = "application/json",
    body_media: str = "application/json",
) -> Callable[[Handler], Handler]:
    """Describe a method of a view. `work`: it answers 202 with an operation (and takes `?wait=`), `answer` when waited for."""
    responses: dict[Any, Any] = {}
    if work:
        responses[202] = OpenApiResponse(
            shape(operation=OPERATION_BRIEF), description="Accepted: the work goes on"
        )
        query = (*query, "wait")
    if status == 204:
        responses[204] = OpenApiResponse(description="Done")
    else:
        responses[(status, media)] = OpenApiResponse(answer or ANY, description="Done" if work else "")
    parameters = [
        OpenApiParameter(name, OpenApiTypes.STR, description=_ABOUT.get(name, ""))
        for name in dict.fromkeys((*query, "node"))
    ]
    request = {body_media: body} if body is not None else None
    decorator: Callable[[Handler], Handler] = extend_schema(
        summary=summary, responses=responses, parameters=parameters, request=request
    )
    return decorator


class Strict(serializers.Serializer[Any]):
    """A serializer that refuses fields it does not know."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, dict):
            unknown = sorted(set(data) - set(self.fields))
            if unknown:
                raise serializers.ValidationError({str(name)[:100]: ["unknown field"] for name in unknown})
        return super().to_internal_value(data)

    @classmethod
    def read(cls, data: Any) -> dict[str, Any]:
        """Return the checked fields of a request's body, else raise `ValidationError`."""
        serializer = cls(data=data)
        serializer.is_valid(raise_exception=True)
        return dict(serializer.validated_data)
