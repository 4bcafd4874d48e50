"""Reading a Dockerfile: where errors point, what they suggest, and that hostile input costs little."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.build.dockerignore import IgnoreMatcher, parse_ignore_file
from engine.build.instruction_parser import parse_dockerfile
from engine.build.instructions import Copy, Env, HealthCheck, OnBuild, Run
from engine.build.runmounts import MountError, MountType, parse_mount
from engine.build.shell import Lexer, ShellSyntaxError
from engine.build.suggest import nearest
from engine.errors import DockerfileError


def _refused(text: str | bytes) -> DockerfileError:
    with pytest.raises(DockerfileError) as caught:
        parse_dockerfile(text)
    return caught.value


def test_an_unknown_instruction_suggests_the_nearest_one_and_points_at_it() -> None:
    error = _refused("FROM scratch\n\n  COPPY a /b\n")
    assert (error.message, error.hint) == ("unknown instruction: COPPY", "did you mean COPY?")
    assert (error.line, error.column, error.file) == (3, 3, "Dockerfile")


def test_an_unknown_flag_suggests_the_nearest_one_and_points_at_it() -> None:
    error = _refused("FROM scratch\nCOPY a \\\n  b /c\nCOPY --form=x \\\n a /b\n")
    assert (error.message, error.hint) == ("unknown flag: --form", "did you mean from?")
    assert (error.line, error.column) == (4, 6)


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        ("", "file with no instructions", 0),
        ("RUN true", "no build stage in current context", 1),
        ("ARG A\n", "dockerfile contains no stages to build", 1),
        ("FROM", "FROM requires either one or three arguments", 1),
        (
            "FROM a AS 1b",
            'invalid name for build stage: "1b", name can\'t start with a number or contain symbols',
            1,
        ),
        ("FROM a\nRUN <<EOF\nls\n", "unterminated heredoc", 2),
        ("FROM a\nENV A=1 B\n", 'Syntax error - can\'t find = in "B". Must be of the form: name=value', 2),
        ("FROM a\nENV A\n", "ENV must have two arguments", 2),
        ("# escape=x\nFROM a", "invalid escape token 'x' does not match ` or \\", 1),
        ("# escape=`\n# escape=`\nFROM a", "only one escape parser directive can be used", 2),
        ("FROM a\nRUN a\0b", "a line holds a NUL byte", 2),
        ("FROM a\nRUN --network=hsot true", 'invalid network mode "hsot"', 2),
        ("FROM a\nRUN --mount=type=bnid,target=/x true", 'unsupported mount type "bnid"', 2),
        ("FROM a\nSHELL bash -c", "SHELL requires the arguments to be in JSON form", 2),
        ("FROM a\nHEALTHCHECK --interval=5 CMD true", 'time: missing unit in duration "5"', 2),
        ("FROM a\nHEALTHCHECK --interval=1us CMD true", 'Interval "interval" cannot be less than 1ms', 2),
        ("FROM a\nHEALTHCHECK TCP 80", 'Unknown type "TCP" in HEALTHCHECK (try CMD)', 2),
        ("FROM a\nCOPY --from=x --from=y a b", "duplicate flag specified: --from", 2),
        ("FROM a\nCOPY --link=maybe a b", "expecting boolean value for flag --link, not: maybe", 2),
    ],
)
def test_what_cannot_be_built_is_refused_with_its_line(text: str, message: str, line: int) -> None:
    error = _refused(text)
    assert (error.message, error.line) == (message, line)


def test_a_backtick_can_be_the_escape_character() -> None:
    run = parse_dockerfile("# escape=`\nFROM a\nRUN dir C:\\ `\n  /s").stages[0].body[0]
    assert isinstance(run, Run)
    assert run.command.words == ("dir C:\\   /s",)


def test_comments_and_empty_lines_inside_a_continued_instruction_are_dropped() -> None:
    dockerfile = parse_dockerfile("FROM a\nRUN one \\\n  # why\n\n  two\n")
    run = dockerfile.stages[0].body[0]
    assert isinstance(run, Run)
    assert run.command.words == ("one   two",)
    assert [warning.line for warning in dockerfile.parsed.warnings] == [5]


def test_both_forms_of_env_are_read() -> None:
    body = parse_dockerfile("FROM a\nENV A b c\nENV D=e F='g h'\n").stages[0].body
    pairs = [str(pair) for instruction in body if isinstance(instruction, Env) for pair in instruction.pairs]
    assert pairs == ["A=b c", "D=e", "F='g h'"]


def test_health_check_options_become_nanoseconds() -> None:
    check = (
        parse_dockerfile("FROM a\nHEALTHCHECK --interval=1m30s --retries=4 CMD curl x\n").stages[0].body[0]
    )
    assert isinstance(check, HealthCheck)
    assert (check.test, check.interval_ns, check.retries) == (("CMD-SHELL", "curl x"), 90 * 10**9, 4)


def test_onbuild_keeps_its_here_document() -> None:
    trigger = parse_dockerfile("FROM a\nONBUILD COPY <<E /x\nhi\nE\n").stages[0].body[0]
    assert isinstance(trigger, OnBuild)
    assert trigger.expression == "COPY <<E /x\nhi\nE"


def test_copy_reads_all_its_flags() -> None:
    line = "COPY --from=b --chown=1:2 --chmod=u=rwX --link --parents --exclude=*.a --exclude=*.b x y /z/"
    copy = parse_dockerfile(f"FROM a\n{line}\n").stages[0].body[0]
    assert isinstance(copy, Copy)
    assert (copy.origin, copy.chown, copy.chmod, copy.link, copy.parents) == ("b", "1:2", "u=rwX", True, True)
    assert (copy.excludes, copy.sources, copy.destination) == (("*.a", "*.b"), ("x", "y"), "/z/")


def test_a_mount_knows_its_options_and_defaults() -> None:
    mount = parse_mount("type=cache,id=apt,target=/var/cache/apt,sharing=locked,mode=0700,uid=5", str)
    assert (mount.type, mount.id, mount.mode, mount.uid, mount.is_read_only) == (
        MountType.CACHE,
        "apt",
        0o700,
        5,
        False,
    )
    assert parse_mount("from=a,source=/b,target=/c", str).is_read_only


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("type=bind,target=/x,mode=1", 'mode not allowed for "bind" type mounts'),
        ("type=secret", "one of source, target required"),
        ("type=secret,id=a,source=b", "both source and id can't be set"),
        ("type=bind,target=/x,sharing=locked", "invalid cache sharing"),
        ("type=tmpfs,target=/x,size=much", "invalid value for size: much"),
        ("type=bind,tagret=/x", "unexpected key 'tagret'"),
        ("type=cache,required", "unexpected key 'required' for mount type 'cache'"),
        ("type=bind", "needs a target"),
        ("target", "must be a key=value pair"),
    ],
)
def test_a_wrong_mount_is_refused(text: str, message: str) -> None:
    with pytest.raises(MountError, match=message.replace("(", "\\(")):
        parse_mount(text, str)


def test_suggestions_keep_the_case_and_stay_near() -> None:
    assert nearest("EXPOS", ["EXPOSE", "ENV"]) == "EXPOSE"
    assert nearest("expos", ["EXPOSE", "ENV"]) == "expose"
    assert nearest("completely", ["EXPOSE", "ENV"]) == ""
    assert nearest("x" * 100_000, ["EXPOSE"]) == ""


HOSTILE = {
    "50 MB": b"FROM a\n" + b"RUN true\n" * 6_000_000,
    "long line": b"FROM a\n" + b"RUN " + b"x" * 5_000_000,
    "stages": b"".join(b"FROM scratch AS s%d\n" % number for number in range(10_000)),
    "instructions": b"FROM a\n" + b"RUN x\n" * 20_000,
    "heredocs": b"FROM a\nRUN <<A" + b" <<A" * 10_000,
    "continuations": b"FROM a\n" + b"\\\n" * 1_000_000,
    "brackets": b"FROM a\nCMD " + b"[" * 100_000,
}
_MEASURED = """
import contextlib, pathlib, re, sys
from engine.build.instruction_parser import parse_dockerfile
from engine.errors import DockerfileError

def most():
    return int(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])

text = pathlib.Path(sys.argv[1]).read_bytes()
pathlib.Path("/proc/self/clear_refs").write_text("5")
before = most()
with contextlib.suppress(DockerfileError):
    parse_dockerfile(text)
print(most() - before)
"""


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_dockerfiles_end_soon(name: str) -> None:
    """BU-08: refused, or read as what it is, in two seconds."""
    began = time.thread_time()
    with contextlib.suppress(DockerfileError):
        parse_dockerfile(HOSTILE[name])
    assert time.thread_time() - began < 2


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_dockerfiles_take_little_memory(name: str, tmp_path: Path) -> None:
    """BU-08: in 128 MB."""
    (tmp_path / "Dockerfile").write_bytes(HOSTILE[name])
    argv = [sys.executable, "-c", _MEASURED, str(tmp_path / "Dockerfile")]
    most_kb = int(subprocess.run(argv, cwd=Path.cwd(), capture_output=True, text=True, check=True).stdout)
    assert most_kb < 128 * 1024


@pytest.mark.parametrize(
    ("word", "variables"),
    [
        ("${a:-" * 100_000 + "}" * 100_000, {}),
        ("${A//x/$A}", {"A": "x" * 100_000}),
        ("${A#*a*a*a*a*a*a*a*a*b}", {"A": "a" * 50_000}),
        ("${A//*a*a*a*b/}", {"A": "a" * 20_000}),
        ("$A" * 100_000, {"A": "y" * 1000}),
    ],
    ids=["nesting", "growth", "prefix", "replace", "repeat"],
)
def test_hostile_words_end_soon(word: str, variables: dict[str, str]) -> None:
    """BU-08: deep nesting and growing or backtracking expansions are refused or answered in two seconds."""
    began = time.thread_time()
    with contextlib.suppress(ShellSyntaxError):
        assert len(Lexer().expand(word, variables.get).text) <= 2**20
    assert time.thread_time() - began < 2


def test_hostile_ignore_patterns_end_soon() -> None:
    """BU-08: patterns that make a regular expression go back for ever do not."""
    began = time.thread_time()
    matcher = IgnoreMatcher(["**/a*" * 50 + "b", "*a" * 100 + "b", "a**" * 60])
    for number in range(20):
        matcher.ignores("a/" * 100 + "a" * 100 + str(number))
    assert time.thread_time() - began < 2


def test_ignored_folders_need_not_be_entered() -> None:
    matcher = IgnoreMatcher(parse_ignore_file(b"node_modules\nbuild\n!build/keep\n"))
    assert matcher.ignores_all_below("node_modules")
    assert not matcher.ignores_all_below("build")
    assert matcher.ignores("build/x")
    assert not matcher.ignores("build/keep/y")


def test_a_dot_never_ignores_the_context_itself() -> None:
    assert not IgnoreMatcher(["**"]).ignores(".")
