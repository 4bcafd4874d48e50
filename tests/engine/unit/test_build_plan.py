"""Plans, scopes, modes, secrets and changes: the parts of a build that touch nothing."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from engine.build.advice_rules import RULES
from engine.build.changes import apply_changes
from engine.build.durations import format_duration, parse_duration
from engine.build.expansion import Expander
from engine.build.instruction_parser import parse_dockerfile
from engine.build.modes import parse_mode
from engine.build.ops.download import file_name, is_public, redacted
from engine.build.ops.run import command_words
from engine.build.plan import BuildPlan, Planner
from engine.build.quote import quote, quote_list
from engine.build.secrecy import Masker, looks_secret, without_credentials
from engine.build.stopsignals import is_signal
from engine.build.variables import global_scope, platform_arguments
from engine.errors import DockerfileError, InvalidInput
from engine.oci.image_config import ContainerConfig
from engine.platform import Platform

HOST = Platform("linux", "amd64")
TRIGGERS = {"on:1": ("COPY --from=tools /t /t",), "evil:1": ("FROM x",)}


def _plan(text: str, target: str = "", **given: str) -> BuildPlan:
    dockerfile = parse_dockerfile(text)
    expander = Expander(dockerfile.parsed)
    scope = global_scope(platform_arguments(HOST, HOST, target), given, dockerfile.meta_args, expander.lexer)
    planner = Planner(
        dockerfile,
        expander,
        scope,
        host=HOST,
        target_platform=HOST,
        triggers=lambda reference, platform, head: TRIGGERS.get(reference, ()),
    )
    return planner.plan(target)


def test_only_what_the_target_needs_is_planned() -> None:
    plan = _plan("FROM a AS one\nFROM b AS two\nCOPY --from=one /x /\nFROM c AS three\nFROM two AS four\n")
    assert sorted(plan.stages) == [0, 1, 3]
    assert plan.skipped == ("three",)
    assert plan.stages[3].needs == {1}
    assert plan.stages[1].needs == {0}


def test_sources_are_stages_by_name_or_number_or_images() -> None:
    plan = _plan(
        "FROM a AS one\nFROM b\nCOPY --from=ONE /x /\nCOPY --from=0 /y /\nCOPY --from=some/image:1 /z /\nRUN --mount=from=other,target=/m true\n"
    )
    assert plan.stages[1].needs == {0}
    assert plan.stages[1].images == {"some/image:1", "other"}


def test_triggers_of_a_base_may_need_further_stages() -> None:
    plan = _plan("FROM t AS tools\nFROM on:1\nRUN true\n")
    assert plan.stages[1].needs == {0}
    assert [instruction.triggered for instruction in plan.stages[1].instructions] == [True, False]


def test_a_trigger_cannot_be_a_from() -> None:
    with pytest.raises(DockerfileError, match="isn't allowed as an ONBUILD trigger"):
        _plan("FROM evil:1\n")


def test_a_stage_may_be_called_like_an_image_and_like_an_earlier_stage() -> None:
    plan = _plan("FROM debian AS debian\nRUN one\nFROM debian AS debian\nRUN two\nFROM debian\n")
    assert plan.stages[2].base_stage == 1
    assert plan.stages[1].base_stage == 0
    assert plan.stages[0].base == "debian"


def test_whether_the_context_is_needed_is_known() -> None:
    without = "FROM a AS one\nFROM b\nCOPY --from=one /x /\nCOPY <<E /y\nE\n"
    assert not _plan(without + "ADD --link http://x.y/z https://x.y/z.git#a /z\n").needs_context
    assert _plan(without + "ADD http://x.y/z near /z/\n").needs_context
    assert _plan(without + "ARG A\nADD $A /z\n").needs_context
    assert _plan("FROM a\nCOPY x /\n").needs_context
    assert _plan("FROM a\nRUN --mount=target=/m true\n").needs_context


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ARG A\nFROM $A\n", "base name ($A) should not be blank"),
        ("FROM --platform=$NONE a\n", "empty platform value from expression $NONE"),
        ("FROM --platform=what/is/this/now a\n", "failed to parse platform"),
        ("FROM a\nCOPY --from=$X /a /b\n", "variable expansion is not supported for --from"),
        ("FROM a\nCOPY --from=5 /a /b\n", "invalid stage index 5"),
        ("FROM a AS me\nCOPY --from=me /a /b\n", "it needs to be defined before current stage"),
    ],
)
def test_wrong_plans_are_refused_at_their_line(text: str, message: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        _plan(text)
    assert message in caught.value.message
    assert caught.value.line == text.count("\n")


def test_a_long_chain_of_stages_is_planned_soon() -> None:
    text = "FROM a AS s0\n" + "".join(f"FROM s{number} AS s{number + 1}\n" for number in range(498))
    assert len(_plan(text).stages) == 499


def test_global_arguments_build_on_each_other() -> None:
    assert _plan("ARG A=x\nARG B=$A-y\nFROM $B\n", A="z").stages[0].base == "z-y"


@pytest.mark.parametrize(
    ("mode", "before", "folder", "after"),
    [
        ("755", 0o600, False, 0o755),
        ("u=rwX,go=rX", 0o600, False, 0o644),
        ("u=rwX,go=rX", 0o600, True, 0o755),
        ("+x", 0o644, False, 0o755),
        ("g-w,o=", 0o666, False, 0o640),
        ("a=rx", 0o644, False, 0o555),
        ("u+s,g+s,+t", 0o755, False, 0o7755),
        ("g=u", 0o640, False, 0o660),
        ("o+X", 0o644, False, 0o644),
        ("go+X", 0o744, False, 0o755),
    ],
)
def test_modes_change_as_with_chmod(mode: str, before: int, folder: bool, after: int) -> None:
    assert oct(parse_mode(mode).apply(before, is_folder=folder)) == oct(after)


@pytest.mark.parametrize("mode", ["888", "77777", "rwx", "u~x", "", "u=rwq"])
def test_wrong_modes_are_refused(mode: str) -> None:
    with pytest.raises(InvalidInput):
        parse_mode(mode)


def test_secrets_are_taken_out_of_a_stream_wherever_it_is_cut() -> None:
    text = b"before geheim-4711 after geheim-47 end"
    for size in range(1, len(text)):
        masker = Masker([b"geheim-4711\n"])
        out = b"".join(masker.feed(text[at : at + size]) for at in range(0, len(text), size)) + masker.flush()
        assert out == b"before *** after geheim-47 end"


def test_names_of_secrets_are_known() -> None:
    assert all(looks_secret(name) for name in ("API_KEY", "password", "GITHUB_TOKEN", "secret_x", "AUTH"))
    assert not any(
        looks_secret(name) for name in ("PUBLIC_KEY", "KEYBOARD", "TOKEN_FILE", "MONKEY", "AUTHOR")
    )


def test_credentials_are_taken_out_of_addresses() -> None:
    assert without_credentials("get https://me:pw@host/x and a@b") == "get https://***@host/x and a@b"
    assert redacted("http://u:p@[::1]:80/x@y") == "http://***@[::1]:80/x@y"


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "64:ff9b::808:808", "2002:808:808::1"])
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.64.0.1", "224.0.0.1",
        "255.255.255.255", "192.0.2.1", "198.18.0.1", "::1", "::", "fe80::1", "fc00::1", "ff02::1", "::ffff:10.0.0.1",
        "64:ff9b::a00:1", "2002:7f00:1::1", "2001:0:1234::1", "2001:db8::1", "fec0::1", "::127.0.0.1",
    ],
)  # fmt: skip
def test_other_addresses_are_not(address: str) -> None:
    """BU-06: private, loopback, link-local, reserved, and those wrapped in IPv6."""
    assert not is_public(ip_address(address))


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://h/a/b.tar.gz?x=/y", "b.tar.gz"),
        ("http://h/", ""),
        ("http://h", ""),
        ("http://h/%2e%2e%2fetc", "etc"),
        ("http://h/..", ""),
        ("http://h/a%00b", ""),
        ("http://h/" + "x" * 300, ""),
    ],
)
def test_names_of_downloads_lead_nowhere(url: str, name: str) -> None:
    """BU-07: only the last part of the address counts, decoded before it is cut."""
    assert file_name(url) == name


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("SIGTERM", True),
        ("term", True),
        ("9", True),
        ("SIGRTMIN+3", True),
        ("65", False),
        ("0", False),
        ("SIGFOO", False),
        ("", False),
    ],
)
def test_signals_are_known(text: str, valid: bool) -> None:
    assert is_signal(text) is valid


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [("1h2m3s", 3723 * 10**9), ("1.5s", 1500 * 10**6), ("100ms", 10**8), ("0", 0), (".5s", 5 * 10**8)],
)
def test_durations_are_read(text: str, nanoseconds: int) -> None:
    assert parse_duration(text) == nanoseconds


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [(90 * 10**9, "1m30s"), (1500 * 10**6, "1.5s"), (5 * 10**6, "5ms"), (3600 * 10**9, "1h"), (0, "0s")],
)
def test_durations_are_written(nanoseconds: int, text: str) -> None:
    assert format_duration(nanoseconds) == text


def test_quoting_is_that_of_histories() -> None:
    assert quote('a"b\\\n\x01♥') == '"a\\"b\\\\\\n\\x01♥"'
    assert quote_list(["a", "b c"]) == '["a" "b c"]'


def test_commands_become_words() -> None:
    body = (
        parse_dockerfile('FROM a\nRUN a b\nRUN ["a", "b"]\nRUN <<E\na\nE\nRUN <<E cat\nx\nE\n').stages[0].body
    )
    words = [command_words(run, ("sh", "-c"))[0] for run in body]  # type: ignore[arg-type]
    assert words == [("sh", "-c", "a b"), ("a", "b"), ("sh", "-c", "a\n"), ("sh", "-c", "<<E cat\nx\nE")]


def test_changes_of_a_commit_shape_the_config() -> None:
    config = ContainerConfig(env=("A=1",), cmd=("old",))
    changed = apply_changes(
        config, ['CMD ["nginx", "-g", "daemon off;"]', "ENV B=$A-2", "LABEL x=y", "WORKDIR /w", "EXPOSE 80"]
    )
    assert changed.config.cmd == ("nginx", "-g", "daemon off;")
    assert changed.config.env == ("A=1", "B=1-2")
    assert (changed.config.labels, changed.config.working_dir) == ({"x": "y"}, "/w")
    assert changed.config.exposed_ports == ("80/tcp",)


@pytest.mark.parametrize("text", ["RUN true", "COPY a b", "FROM x", "CMD a\nCMD b", "NONSENSE x", ""])
def test_changes_that_need_a_file_system_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        apply_changes(ContainerConfig(), [text])


def test_rules_have_their_own_names() -> None:
    assert all(rule.id == key and rule.severity in ("info", "warning") for key, rule in RULES.items())
