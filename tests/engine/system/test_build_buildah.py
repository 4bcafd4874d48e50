"""The same Dockerfile built by us and by Debian's buildah: the same files, modes, owners and config."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.building import BuildNode, build_node, describe, make_context
from tests.support.busybox import make_tar

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        shutil.which("buildah") is None, reason="buildah is not installed: script/test installs it"
    ),
]

HEAD = "FROM scratch\nADD root.tar /\n"
FILES: dict[str, bytes | str] = {
    "a.txt": "a",
    "b.txt": "b",
    "d/one": "1",
    "d/two/three": "3",
    "d/link": "->one",
    "e/": "",
    ".dockerignore": "ignored\n**/*.log\n!keep.log\n",
    "ignored/x": "x",
    "x.log": "x",
    "keep.log": "k",
    "n/": "",
    "n/y.log": "y",
}

CASES = {
    "commands": "RUN echo hi > /hi && chown alice:staff /hi && chmod 4750 /hi\nRUN mkdir -m 700 /d && ln -s hi /l && ln /hi /h2\n",
    "removal": "RUN mkdir /gone && touch /gone/a /stay\nRUN rm -r /gone && rm /etc/group && mkdir /stay2\n",
    "copy files": "COPY a.txt /x/y/\nCOPY a.txt b.txt /z/\nCOPY a.txt /renamed\nCOPY *.txt /glob/\n",
    "copy folders": "COPY d /into\nCOPY d e /both/\nCOPY d/two /into\nCOPY . /all/\n",
    "copy owners": "COPY --chown=alice:staff d /n\nCOPY --chown=5:6 a.txt /m/\nCOPY --chmod=600 b.txt /b\n",
    "copy over links": "RUN mkdir /real && ln -s /real /way\nCOPY a.txt /way/\nCOPY d /way/deeper/\n",
    "workdir": "WORKDIR /w\nCOPY a.txt .\nWORKDIR sub/dir\nRUN pwd > here\nCOPY b.txt ../up\n",
    "user": "USER alice\nRUN id -u > /tmp/uid; mkdir /tmp/mine\nWORKDIR /tmp/mine\n",
    "variables": 'ARG A=1\nARG B\nENV C=${A}x D="q r" E=${B:-none}\nENV F $C\nRUN echo $A $C "$D" $E $F > /vars\nLABEL v=$C "k 2"=\'$C\'\n',
    "config": 'EXPOSE 80 53/udp\nVOLUME /data\nUSER 1000:50\nSTOPSIGNAL SIGUSR1\nENTRYPOINT ["/bin/sh"]\nCMD ["-c", "x y"]\n',
    "shell forms": "CMD run it\nENTRYPOINT enter $HOME\n",
    "shell": 'SHELL ["/bin/sh", "-ec"]\nRUN echo $- > /s\n',
    "health": "HEALTHCHECK --interval=7s --timeout=3s --retries=4 CMD test -e /x\n",
    "maintainer": "MAINTAINER alice <alice@example.com>\n",
    "arguments in commands": 'ARG A=1\nENV B=2\nRUN A=3 B=4; echo $A$B > /v\nRUN ["sh", "-c", "echo $A$B > /w"]\n',
    "add archive": "ADD root.tar /unpacked/\nADD a.txt /plain\n",
    "stages": "RUN echo built > /out && chown alice /out\nFROM scratch\nCOPY --from=0 /out /etc/passwd /in/\n",
}


@dataclass(frozen=True)
class Theirs:
    tree: dict[str, str]
    config: dict[str, Any]
    author: str


@pytest.fixture(scope="module")
def node() -> Iterator[BuildNode]:
    with build_node(with_base=False) as made:
        yield made


@pytest.fixture(scope="module")
def store() -> Iterator[list[str]]:
    """Options that keep buildah's things in a folder of the test's own."""
    folder = Path(tempfile.mkdtemp(prefix="wf-buildah-", dir="/var/tmp"))
    (folder / "storage.conf").write_text("")
    yield [
        "buildah",
        "--root",
        str(folder / "root"),
        "--runroot",
        str(folder / "run"),
        "--storage-driver",
        "vfs",
    ]
    shutil.rmtree(folder, ignore_errors=True)


def _theirs(store: list[str], dockerfile: str, context: Path) -> Theirs:
    file = context.parent / "Dockerfile"
    file.write_text(dockerfile)
    bud = [
        *store,
        "bud",
        "--isolation",
        "chroot",
        "--format",
        "docker",
        "--layers",
        "-q",
        "-f",
        str(file),
        str(context),
    ]
    image = subprocess.run(bud, check=True, capture_output=True, text=True).stdout.strip()
    made = json.loads(_run([*store, "inspect", "--type", "image", image]))
    container = _run([*store, "from", "--pull-never", image])
    root = Path(_run([*store, "mount", container]))
    try:
        return Theirs(describe(root), made["Docker"]["config"], made["Docker"].get("author") or "")
    finally:
        _run([*store, "umount", container])
        _run([*store, "rm", container])


def _run(argv: list[str]) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


def _files() -> Mapping[str, bytes | str]:
    return {**FILES, "root.tar": make_tar()}


_SAME = (
    "Env",
    "Cmd",
    "Entrypoint",
    "WorkingDir",
    "User",
    "ExposedPorts",
    "Volumes",
    "StopSignal",
    "Shell",
    "OnBuild",
)


@pytest.mark.parametrize("name", CASES)
def test_the_image_is_the_same(node: BuildNode, store: list[str], tmp_path: Path, name: str) -> None:
    dockerfile = HEAD + CASES[name]
    context = tmp_path / "context"
    context.mkdir()
    subprocess.run(["tar", "-x", "-C", str(context)], input=make_context(_files()), check=True)
    theirs = _theirs(store, dockerfile, context)
    result = node.build(dockerfile, files=_files())
    ours = node.image(result).config.config.to_json()
    assert node.image(result).config.author == theirs.author
    assert _without_sandbox(node.tree(result)) == _without_sandbox(theirs.tree)
    for key in _SAME:
        assert _plain(ours.get(key)) == _plain(theirs.config.get(key)), key
    labels = {
        key: value for key, value in (theirs.config.get("Labels") or {}).items() if "buildah" not in key
    }
    assert ours.get("Labels", {}) == labels
    assert ours.get("Healthcheck") == theirs.config.get("Healthcheck")


def _plain(value: Any) -> Any:
    """Nothing set is nothing set, however it is written."""
    return value or None


def _without_sandbox(tree: dict[str, str]) -> dict[str, str]:
    """Leave out what only differs because of the sandbox: buildah leaves mount points behind in the image."""
    left_out = ("dev/", "proc/", "sys/", "run", "etc/hosts", "etc/resolv.conf", "etc/hostname")
    return {name: what for name, what in tree.items() if not name.startswith(left_out)}
