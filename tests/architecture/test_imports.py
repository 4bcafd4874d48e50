"""The house: top may import below, never the reverse; indirect imports count too."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from grimp import ImportGraph, build_graph

ROOT = Path(__file__).resolve().parents[2]

LAYERS: list[set[str]] = [  # lowest first; a module imports its own layer's package, or a lower layer
    {"errors", "digest", "reference", "platform", "events", "config", "progress"},
    {"oci", "linux", "db"},
    {"content", "snapshots", "registry"},
    {"layers"},
    {"images", "runtime", "network", "volumes"},
    {"build", "containers"},
    {"node"},
    {"engine"},
    {"__main__"},
]
ENGINE_LIBRARIES = {"isal", "zstandard"}


@cache
def graph() -> ImportGraph:
    sys.path.insert(0, str(ROOT))
    return build_graph(
        "engine",
        "workers",
        "webapp",
        include_external_packages=True,
        exclude_type_checking_imports=True,
        cache_dir=None,
    )


VALUES = {"engine.containers.model"}  # what may be asked of a container: values that every layer may speak of


def layer_of(module: str) -> int:
    if module in VALUES:
        return 0
    part = module.split(".")[1]
    return next(number for number, names in enumerate(LAYERS) if part in names)


def engine_modules() -> list[str]:
    return sorted(name for name in graph().modules if name.startswith("engine."))


def test_every_engine_module_has_a_layer() -> None:
    known = set().union(*LAYERS)
    assert {name.split(".")[1] for name in engine_modules()} <= known


def test_engine_imports_only_downwards() -> None:
    wrong = []
    for module in engine_modules():
        for imported in graph().find_modules_directly_imported_by(module):
            if not imported.startswith("engine.") or imported.split(".")[1] == module.split(".")[1]:
                continue
            if layer_of(imported) > layer_of(module) or (
                layer_of(imported) == layer_of(module) and layer_of(module) >= 4
            ):
                wrong.append(f"{module} imports {imported}")
    assert not wrong


@pytest.mark.parametrize(
    "forbidden", ["django", "celery", "channels", "redis", "workers", "webapp", "rest_framework"]
)
def test_engine_knows_nothing_above_it(forbidden: str) -> None:
    if forbidden in graph().modules:
        assert not graph().chain_exists(importer="engine", imported=forbidden, as_packages=True)


def test_engine_uses_few_libraries() -> None:
    used = set()
    for module in engine_modules():
        for imported in graph().find_modules_directly_imported_by(module):
            top = imported.split(".")[0]
            if top not in ("engine", *sys.stdlib_module_names):
                used.add(top)
    assert used <= ENGINE_LIBRARIES


def test_web_reaches_workers_only_through_contracts_and_client() -> None:
    allowed = ("workers.contracts", "workers.client")
    wrong = [
        f"{module} imports {imported}"
        for module in graph().modules
        if module.startswith("webapp")
        for imported in graph().find_modules_directly_imported_by(module)
        if imported.startswith("workers") and imported != "workers" and not imported.startswith(allowed)
    ]
    assert not wrong


def test_web_cannot_reach_the_engine() -> None:
    assert not graph().chain_exists(importer="webapp", imported="engine", as_packages=True)


def test_contracts_need_the_standard_library_alone() -> None:
    for module in graph().modules:
        if module.startswith("workers.contracts"):
            for imported in graph().find_modules_directly_imported_by(module):
                assert imported.split(".")[0] in ("workers", *sys.stdlib_module_names), (
                    f"{module} imports {imported}"
                )
                assert not imported.startswith("workers.") or imported.startswith("workers.contracts")


def test_models_know_neither_services_nor_views() -> None:
    for module in graph().modules:
        if module.startswith("webapp.") and module.endswith(".models"):
            for imported in graph().find_modules_directly_imported_by(module):
                last = imported.rsplit(".", 1)[-1]
                assert last not in ("services", "selectors", "apis", "pages", "consumers"), (
                    f"{module} imports {imported}"
                )


def sources() -> Iterator[tuple[Path, ast.Module]]:
    for folder in ("engine", "workers", "webapp", "script"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path, ast.parse(path.read_text())


def test_no_shell_and_no_archive_extractor_of_the_standard_library() -> None:
    """D1, AP-19: `shell=True`, `os.system`, `extractall` and `unpack_archive` are banned."""
    wrong = []
    for path, tree in sources():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            starts = name in ("run", "Popen", "call", "check_call", "check_output")
            shell = starts and any(
                k.arg == "shell" and getattr(k.value, "value", False) is True for k in node.keywords
            )
            if shell or name in ("extractall", "unpack_archive", "system", "popen"):
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} {name}")
    assert not wrong


def test_nothing_deserialises_code() -> None:
    for path, tree in sources():
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            module = node.module if isinstance(node, ast.ImportFrom) else ""
            banned = {"pickle", "marshal", "shelve"} | ({"tarfile"} if "script" not in path.parts else set())
            assert not banned & {*names, module or ""}, path


def test_the_engine_makes_every_table_that_a_subsystem_declares() -> None:
    """A schema that nobody passes to the database is a table that is missing at the first start."""
    declared = {
        f"{path.relative_to(ROOT)}"
        for path in (ROOT / "engine").rglob("*.py")
        if "Schema(\n" in path.read_text() and path.name != "db.py"
    }
    from engine.engine import SCHEMAS

    assert len({schema.name for schema in SCHEMAS}) == len(SCHEMAS) == len(declared), declared


def test_archives_are_unpacked_by_the_confined_process_alone() -> None:
    """D1: whoever unpacks calls `engine.layers.confined`; the work itself is imported by what runs it there."""
    importers = graph().find_modules_that_directly_import("engine.layers.apply")
    assert importers == {"engine.layers.job", "engine.layers.unpacker"}
