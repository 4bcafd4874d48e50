"""A second process of the engine that kills itself (signal 9) right after, or before, a named method has run.

crash(node, "engine.containers.launch:Launcher._mount_root", "start", container.id)
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.containers import Node

PROGRAM = """
import importlib, json, operator, os, signal, sys
from pathlib import Path
from engine.config import EngineConfig
from engine.containers.model import ContainerSpec, from_json
from engine.linux.netlink import set_netns
from tests.support.containers import open_node

request = json.loads(sys.argv[1])
values = {**request["config"], "data_root": Path(request["config"]["data_root"]), "run_root": Path(request["config"]["run_root"])}
values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
config = EngineConfig(**values)
with open(config.run_root / "machine", "rb") as file:
    set_netns(file.fileno())
node = open_node(config)
module, _, path = request["point"].partition(":")
owner_name, _, name = path.rpartition(".")
owner = importlib.import_module(module)
for part in owner_name.split("."):
    owner = getattr(owner, part) if part else owner
original = getattr(owner, name)

def wrapped(*args, **kwargs):
    if request["before"]:
        os.kill(os.getpid(), signal.SIGKILL)
    result = original(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)
    return result

setattr(owner, name, wrapped)
verb, arguments = request["verb"], request["arguments"]
if verb == "create":
    node.containers.create(from_json(ContainerSpec, arguments[0]), id=arguments[1])
else:
    operator.attrgetter(verb)(node.containers)(*arguments, **request["options"])
print("survived")
"""


def crash(
    node: Node, point: str, verb: str, *arguments: object, before: bool = False, **options: object
) -> None:
    """Run `verb` in another process that dies at `point`; fails when it was not reached."""
    config = {
        name: str(value) if isinstance(value, Path) else value for name, value in vars(node.config).items()
    }
    request = {
        "config": config, "point": point, "verb": verb, "arguments": list(arguments), "options": options, "before": before,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(request)], capture_output=True, text=True, cwd=Path.cwd(), check=False,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == -9, f"{point} was not reached: {done.stdout}{done.stderr}"
