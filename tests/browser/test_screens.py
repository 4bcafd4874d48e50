"""Each page in light, dark and on a phone: nothing is refused by the content policy, nothing scrolls sideways, pictures are kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.serial, pytest.mark.timeout(600)]


def pages_of(site: Any) -> dict[str, str]:
    backend, staging, postgres = (
        site.container(name) for name in ("leafy-backend", "leafy-backend-staging", "leafy-postgres")
    )
    image, builds = site.facts["images"][0][7:19], site.facts["builds"]
    return {
        "overview": "/",
        "search": "/search/?q=leafy",
        "containers": "/containers/",
        "containers-attention": "/containers/?state=attention",
        "container-logs": f"/containers/{backend}/",
        "container-terminal": f"/containers/{postgres}/terminal/",
        "container-timeline": f"/containers/{staging}/timeline/",
        "container-load": f"/containers/{backend}/load/",
        "container-files": f"/containers/{backend}/files/",
        "container-processes": f"/containers/{backend}/processes/",
        "container-changes": f"/containers/{backend}/changes/",
        "container-details": f"/containers/{backend}/details/",
        "container-json": f"/containers/{backend}/json/",
        "container-remove": f"/containers/{backend}/remove/",
        "container-update": f"/containers/{staging}/update/",
        "container-commit": f"/containers/{backend}/commit/",
        "run": "/containers/run/?image=postgres:16.4&name=leafy-postgres-2",
        "run-like": f"/containers/run/?like={backend}",
        "images": "/images/",
        "image-layers": f"/images/{image}/",
        "image-config": f"/images/{image}/config/",
        "image-tags": f"/images/{image}/tags/",
        "image-users": f"/images/{image}/users/",
        "image-remove": f"/images/{image}/remove/",
        "image-search": "/images/search/?q=nginx",
        "image-pull": "/images/pull/",
        "builds": "/builds/",
        "build-new": "/builds/new/",
        "build-running": f"/builds/{builds['running']}/",
        "build-done": f"/builds/{builds['done']}/",
        "build-failed": f"/builds/{builds['failed']}/",
        "build-compare": f"/builds/{builds['done']}/compare/{builds['failed']}/",
        "operations": "/operations/",
        "operation-running": f"/operations/{site.facts['operations'][0]}/",
        "operation-failed": f"/operations/{site.facts['operations'][2]}/",
        "audit": "/audit/",
        "audit-refused": "/audit/?outcome=refused",
        "recordings": "/audit/recordings/",
        "recording": f"/audit/recordings/{'a' * 32}/",
        "volumes": "/volumes/",
        "volume": "/volumes/leafy-data/",
        "volume-remove": "/volumes/k6-results/remove/",
        "volume-prune": "/volumes/prune/",
        "volume-restore": "/volumes/leafy-data/restore/",
        "networks": "/networks/",
        "network": f"/networks/leafy-network/?from={site.facts['containers']['leafy-front']}&to=leafy-postgres&port=5433",
        "network-new": "/networks/new/",
        "registries": "/registries/",
        "registry-edit": "/registries/docker.io/edit/",
        "people": "/people/",
        "person-edit": "/people/operator/",
        "account": "/account/",
        "token-new": "/account/tokens/new/",
        "nodes": "/nodes/",
        "node": "/nodes/quay-1/",
        "system": "/system/",
        "system-prune": "/system/prune/",
        "api-docs": "/api/v1/docs/",
        "error-missing": "/containers/nothing-here/",
        "keys": "/keys/",
        "application": "/applications/leafy/",
    }


LOOKS = [("light", "desk"), ("dark", "desk"), ("light", "phone")]


@pytest.mark.parametrize(("theme", "size"), LOOKS, ids=["light", "dark", "phone"])
def test_every_page_looks_right(
    theme: str,
    size: str,
    shared_site: Any,
    open_page: Callable[..., Any],
    shoot: Callable[..., Any],
    request: pytest.FixtureRequest,
) -> None:
    only = request.config.getoption("--only", default="") or ""
    look = "phone" if size == "phone" else theme
    wrong = []
    for name, path in pages_of(shared_site).items():
        if only and only not in name:
            continue
        page = open_page(shared_site, path, theme=theme, size=size, user="admin")
        page.wait_for_timeout(150)
        shoot(page, f"{name}-{look}")
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        if wide > 1:
            wrong.append(f"{name} is {wide} px too wide on {size}")
        wrong += [f"{name}: {problem}" for problem in page.problems]
        page.context.close()
    assert not wrong
