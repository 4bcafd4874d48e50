"""Find a thing by id, name or unique start of an id: the same rule for containers, networks and everything with both."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet

from webapp.core.errors import Conflict, Missing
from webapp.core.ids import is_id_prefix

WHOLE_ID = 32  # no id is shorter


def find(
    queryset: QuerySet[Any], ref: str, *, what: str, id_field: str = "id", name_field: str = "name"
) -> Any:
    """Return the row that `ref` names: a whole id, else a name, else a unique start of an id.

    Raises `Missing` (`<what>_not_found`), or `Conflict` when several ids start so or several nodes know the name.
    """
    ref = ref.removeprefix("/")
    as_whole_id = [{id_field: ref}] if len(ref) >= WHOLE_ID else []
    for lookup in (*as_whole_id, {name_field: ref}):
        found = list(queryset.filter(**lookup)[:2])
        if len(found) == 1:
            return found[0]
        if found:
            raise Conflict(f"several nodes have a {what} {ref[:100]!r}", code="ambiguous", hint="use its id")
    found = list(queryset.filter(**{f"{id_field}__startswith": ref})[:2]) if is_id_prefix(ref) else []
    if len(found) > 1:
        raise Conflict(
            f"several {what}s have an id that starts with {ref!r}", code="ambiguous", hint="give more of it"
        )
    if not found:
        raise Missing(
            f"no {what} {ref[:100]!r}", code=f"{what}_not_found", hint=f"list the {what}s to see their names"
        )
    return found[0]
