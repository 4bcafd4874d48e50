"""The routes that there are, as lines: method, path, permission.

`python -m tests.support.routes > tests/webapp/routes.txt` writes the table down after a change that was meant.
"""

from __future__ import annotations

import os
import re


def route_lines() -> list[str]:
    """Return a line for each method of each route."""
    from webapp.core.routes import all_routes, route_of

    lines = set()
    for path, view in all_routes():
        route = route_of(view)
        for method, permission in route.permissions.items() if route else [("ANY", None)]:
            lines.add(f"{method:<6} {path:<70} {permission.value if permission else 'UNDECLARED'}")
    return sorted(lines, key=lambda line: (line.split()[1], line.split()[0]))


def example(path: str) -> str:
    """Return an address that the path pattern matches, naming things that do not exist."""
    path = re.sub(r"\(\?P<\w+>\[\^/\]\+\)", "nothing", path.replace("/^", "/"))
    path = re.sub(r"\(\?P<\w+>(\w+)[^)]*\)", r"\1", path).rstrip("$")
    path = re.sub(r"<int:\w+>", "999999", path)
    return re.sub(r"<(?:\w+:)?\w+>", "nothing", path)


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings.test")
    import django

    django.setup()
    print("\n".join(route_lines()))
