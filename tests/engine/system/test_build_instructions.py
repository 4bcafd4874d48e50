"""Every instruction on the real kernel: what files, owners and config it gives."""

from __future__ import annotations

import io
import os
import socket
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.build.ops.sshproxy import AgentProxy
from engine.errors import (
    CommandFailed,
    Denied,
    DockerfileError,
    EngineError,
    ImageNotFound,
    InvalidInput,
    Unsupported,
)
from tests.support.building import BuildNode, build_node

pytestmark = pytest.mark.root
BASE = "FROM busybox:test\n"


@pytest.fixture(scope="module")
def node() -> Iterator[BuildNode]:
    with build_node() as made:
        yield made


@pytest.fixture(autouse=True)
def _nothing_is_left(node: BuildNode) -> Iterator[None]:
    yield
    assert node.leftovers() == []


def test_run_executes_in_the_shell_and_in_exec_form(node: BuildNode) -> None:
    result = node.build(BASE + 'RUN echo $((1+1)) > /a; echo told\nRUN ["touch", "/$b"]\n')
    assert node.tree(result)["a"] == "file 644 0:0 2\n"
    assert "$b" in node.tree(result)
    assert node.told.lines("stdout") == ["told"]


def test_a_failing_command_ends_the_build_with_its_status(node: BuildNode) -> None:
    with pytest.raises(CommandFailed) as caught:
        node.build(BASE + "RUN echo before\nRUN exit 7\nRUN echo after\n")
    assert caught.value.message == "The command '/bin/sh -c exit 7' returned a non-zero code: 7"
    assert (caught.value.status, caught.value.context["line"]) == (7, 3)
    assert node.told.statuses()["0.2"] == "failed"
    assert "after" not in node.told.lines("stdout")


@pytest.mark.parametrize(
    ("command", "status"),
    [('["missing"]', 127), ('["/etc/passwd"]', 126), ("sh -c 'kill -9 $$'; exit $?", 137)],
)
def test_statuses_are_those_of_a_shell(node: BuildNode, command: str, status: int) -> None:
    with pytest.raises(CommandFailed) as caught:
        node.build(BASE + f"RUN {command}\n")
    assert caught.value.status == status
    assert caught.value.hint


def test_a_command_leaves_no_trace_of_its_sandbox(node: BuildNode) -> None:
    result = node.build("FROM scratch\nCOPY --from=busybox:test /bin /bin\nRUN echo hello\n")
    assert [path for path in node.tree(result) if not path.startswith("bin")] == []
    assert node.image(result).config.history[-1].empty_layer


def test_here_documents_run_as_scripts(node: BuildNode) -> None:
    result = node.build(
        BASE
        + "RUN <<EOF\necho one > /one\necho two > /two\nEOF\n"
        + "RUN <<'E' cat > /three\nthree $HOME\nE\n"
        + "RUN <<E\n#!/bin/busybox sh\necho $0 > /four\nE\n"
        + "RUN <<A cat - /dev/fd/3 3<<B > /five\na\nA\nb\nB\n"
        + "RUN <<-E\n\techo tabs > /six\n\tE\n"
    )
    tree = node.tree(result)
    found = [tree[name].rpartition(" 0:0 ")[2] for name in ("one", "two", "three", "five", "six")]
    assert found == ["one\n", "two\n", "three $HOME\n", "a\nb\n", "tabs\n"]
    assert "heredoc" in tree["four"]


def test_env_and_arg_reach_commands_and_env_stays(node: BuildNode) -> None:
    result = node.build(
        "ARG BASE=busybox:none\nARG OUTER=outer\nFROM $BASE\n"
        "ARG OUTER\nARG VERSION=1\nARG GIVEN=x\nARG UNSET\nENV KEPT=${GIVEN}-${UNSET:-none} VERSION=env\n"
        "RUN echo $OUTER $VERSION $GIVEN $KEPT > /a\n",
        build_args={"BASE": "busybox:test", "GIVEN": "given"},
    )
    assert node.text(result, "a") == "outer env given given-none\n"
    assert "KEPT=given-none" in node.image(result).config.config.env
    assert not any(line.startswith(("GIVEN", "OUTER")) for line in node.image(result).config.config.env)


def test_arguments_of_a_stage_are_not_those_of_another(node: BuildNode) -> None:
    result = node.build(
        'FROM busybox:test AS one\nARG A=1\nRUN echo $A\nFROM busybox:test\nCOPY --from=one /etc/passwd /p\nRUN echo "[$A]" > /a\n'
    )
    assert node.text(result, "a") == "[]\n"


def test_arguments_are_inherited_by_a_stage_on_top(node: BuildNode) -> None:
    result = node.build('FROM busybox:test AS one\nARG A=1\nFROM one\nRUN echo "[$A]" > /a\n')
    assert node.text(result, "a") == "[1]\n"


def test_platform_arguments_need_to_be_asked_for(node: BuildNode) -> None:
    result = node.build(
        BASE + 'RUN echo "[$TARGETARCH]" > /a\nARG TARGETARCH\nRUN echo "[$TARGETARCH]" > /b\n'
    )
    assert node.text(result, "a") == "[]\n"
    assert node.text(result, "b") != "[]\n"


def test_proxies_reach_commands_and_leave_no_trace(node: BuildNode) -> None:
    result = node.build(BASE + "RUN echo $HTTP_PROXY > /a\n", build_args={"HTTP_PROXY": "http://proxy:1"})
    assert node.text(result, "a") == "http://proxy:1\n"
    assert "proxy:1" not in str(node.image(result).config.history)
    again = node.build(BASE + "RUN echo $HTTP_PROXY > /a\n", build_args={"HTTP_PROXY": "http://other:1"})
    assert again.image_id == result.image_id


def test_workdir_user_and_shell_shape_commands(node: BuildNode) -> None:
    result = node.build(
        BASE
        + "WORKDIR /a\nWORKDIR b\nRUN pwd > here\nUSER alice\nWORKDIR mine\n"
        'SHELL ["/bin/sh", "-ec"]\nRUN id -un > who; false; echo never\nRUN true || true\n'.replace(
            "false; ", ""
        )
    )
    tree = node.tree(result, "a")
    assert tree["a/b/here"] == "file 644 0:0 /a/b\n"
    assert tree["a/b/mine"] == "folder 755 1000:1000"
    assert tree["a/b/mine/who"] == "file 644 1000:1000 alice\n"
    config = node.image(result).config.config
    assert (config.working_dir, config.user, config.shell) == ("/a/b/mine", "alice", ("/bin/sh", "-ec"))


def test_metadata_instructions_shape_the_config(node: BuildNode) -> None:
    result = node.build(
        BASE + 'CMD ["a", "b c"]\nENTRYPOINT /start "$X"\nEXPOSE 80 53/udp 8000-8002\nLABEL a=b "c d"="e f"\n'
        'MAINTAINER somebody\nSTOPSIGNAL SIGINT\nVOLUME /data /more\nVOLUME ["/x y"]\n'
        "HEALTHCHECK --interval=5s --retries=2 CMD curl x || exit 1\nONBUILD RUN echo hi\n",
        labels={"given": "label"},
    )
    image = node.image(result).config
    config = image.config
    assert config.cmd == ("a", "b c")
    assert config.entrypoint == ("/bin/sh", "-c", '/start "$X"')
    assert config.exposed_ports == ("53/udp", "80/tcp", "8000/tcp", "8001/tcp", "8002/tcp")
    assert config.labels == {"a": "b", "c d": "e f", "given": "label"}
    assert (image.author, config.stop_signal, config.on_build) == ("somebody", "SIGINT", ("RUN echo hi",))
    assert config.volumes == ("/data", "/more", "/x y")
    assert config.healthcheck is not None
    assert config.healthcheck.test == ("CMD-SHELL", "curl x || exit 1")
    assert (config.healthcheck.interval_ns, config.healthcheck.retries) == (5 * 10**9, 2)


def test_an_entrypoint_takes_the_command_of_the_base_away(node: BuildNode) -> None:
    first = node.build(BASE + 'ENTRYPOINT ["x"]\n')
    assert node.image(first).config.config.cmd is None
    second = node.build(BASE + 'CMD ["y"]\nENTRYPOINT ["x"]\n')
    assert node.image(second).config.config.cmd == ("y",)


def test_the_history_reads_as_people_know_it(node: BuildNode) -> None:
    result = node.build(
        BASE + 'ARG V=3\nARG API_TOKEN=geheim\nRUN echo $V > /v\nCOPY a /b/\nCMD ["x"]\n', files={"a": "1"}
    )
    texts = [entry.created_by for entry in node.image(result).config.history][-5:]
    assert texts == [
        "ARG V=3",
        "ARG API_TOKEN=***",
        "RUN |2 V=3 API_TOKEN=*** /bin/sh -c echo $V > /v",
        "COPY a /b/",
        'CMD ["x"]',
    ]


def test_onbuild_triggers_run_in_the_next_build_first(node: BuildNode) -> None:
    node.build(BASE + "ONBUILD COPY a /a\nONBUILD RUN cat /a > /b\nONBUILD ENV X=y\n", tags=["on:1"])
    result = node.build("FROM on:1\nRUN echo $X >> /b\n", files={"a": "1\n"})
    assert node.text(result, "b") == "1\ny\n"
    assert node.image(result).config.config.on_build == ()


def test_onbuild_of_a_stage_counts_too(node: BuildNode) -> None:
    result = node.build("FROM busybox:test AS one\nONBUILD RUN touch /triggered\nFROM one\n")
    assert "triggered" in node.tree(result)


def test_copy_gives_the_content_of_folders_and_keeps_links(node: BuildNode) -> None:
    result = node.build(
        "FROM scratch\nCOPY d /x\nCOPY d/a e /y/\nCOPY d/l /z\nCOPY d/a /w\nCOPY d/a /v/\nCOPY d* /u/\n",
        files={"d/a": "A", "d/s/b": "B", "d/l": "->a", "e": "E", "d2": "D"},
    )
    tree = node.tree(result)
    assert tree["x/a"] == "file 644 0:0 A"
    assert (tree["x/s/b"], tree["x/l"]) == ("file 644 0:0 B", "link a")
    assert {"y/a", "y/e", "v/a", "u/a", "u/d2", "u/s/b"} <= set(tree)
    assert (tree["z"], tree["w"]) == ("file 644 0:0 A", "file 644 0:0 A")


def test_copy_keeps_modes_and_times_and_sets_owners(node: BuildNode, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir(mode=0o750)
    file = tmp_path / "d" / "f"
    file.write_text("x")
    os.chown(file, 77, 77)
    file.chmod(0o4755)
    os.setxattr(file, "user.note", b"kept")
    os.utime(file, ns=(5 * 10**9, 5 * 10**9))
    result = node.build(
        BASE + "COPY d /d\nCOPY --chown=alice:staff --chmod=u=rwX,go= d /e\nCOPY --chown=5 d/f /f\n",
        context=tmp_path,
    )
    tree = node.tree(result)
    assert (tree["d"], tree["d/f"]) == ("folder 750 0:0", "file 4755 0:0 x")
    assert (tree["e"], tree["e/f"]) == ("folder 700 1000:50", "file 700 1000:50 x")
    assert tree["f"] == "file 4755 5:5 x"
    with node.root(result) as root:
        assert os.stat(root / "d/f").st_mtime == 5
        assert os.getxattr(root / "d/f", "user.note") == b"kept"


def test_copy_follows_links_of_the_image_inside_it(node: BuildNode) -> None:
    """BU-03, AR-15: a destination behind absolute links of the image lands inside the image."""
    result = node.build(
        BASE + "RUN mkdir /real && ln -s /real /link && ln -s ../../../real /rel && ln -s /new/place /dead\n"
        "COPY a /link/\nCOPY a /rel/b\nCOPY a /dead/\n",
        files={"a": "1"},
    )
    tree = node.tree(result)
    assert {"real/a", "real/b", "new/place/a"} <= set(tree)
    assert tree["link"] == "link /real"


def test_copy_from_a_stage_keeps_owners(node: BuildNode) -> None:
    result = node.build(
        "FROM busybox:test AS one\nRUN mkdir /d && echo x > /d/f && chown alice:staff /d/f && ln /d/f /d/g && mkfifo /d/p\n"
        "FROM scratch\nCOPY --from=one /d /d\nCOPY --from=0 /etc/passwd /p\nCOPY --from=busybox:test /etc/group /g\n"
    )
    tree = node.tree(result, "d")
    assert tree["d/f"] == "file 644 1000:50 x\n"
    with node.root(result) as root:
        assert os.stat(root / "d/f").st_ino == os.stat(root / "d/g").st_ino


def test_copy_here_documents_with_and_without_variables(node: BuildNode) -> None:
    result = node.build(
        BASE + "ENV N=me\nCOPY <<A <<'B' /d/\nhello $N\nA\nhello $N\nB\nCOPY <<-C /c\n\ttabs\nC\n"
    )
    assert node.text(result, "d/A") == "hello me\n"
    assert node.text(result, "d/B") == "hello $N\n"
    assert node.tree(result)["c"] == "file 644 0:0 tabs\n"


def test_copy_with_parents_and_excludes(node: BuildNode) -> None:
    files = {"a/b/one.txt": "1", "a/b/two.md": "2", "a/c/three.txt": "3", "x/four.txt": "4"}
    result = node.build(
        "FROM scratch\nCOPY --parents a/b/one.txt x/*.txt /p/\nCOPY --parents a/./b/two.md /q/\n"
        "COPY --exclude=**/*.md --exclude=c a /r/\nCOPY --parents **/*.txt /s/\n",
        files=files,
    )
    tree = {name for name, what in node.tree(result).items() if what.startswith("file")}
    assert tree == {
        "p/a/b/one.txt", "p/x/four.txt", "q/b/two.md", "r/b/one.txt",
        "s/a/b/one.txt", "s/a/c/three.txt", "s/x/four.txt",
    }  # fmt: skip


def test_copy_link_does_not_depend_on_the_base(node: BuildNode) -> None:
    files = {"a": "1"}
    first = node.build(BASE + "COPY --link a /d/a\n", files=files)
    second = node.build(BASE + "RUN touch /other\nCOPY --link a /d/a\n", files=files)
    assert second.steps[-1].status == "cached"
    assert node.text(first, "d/a") == node.text(second, "d/a") == "1"


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("COPY missing /x", '"/missing": not found', "relative to the context"),
        ("COPY ignored /x", '"/ignored": not found', "left out by .dockerignore"),
        ("COPY leak /x", '"/leak": not found', ""),
        ("COPY a b /x", "the destination must be a directory and end with a /", ""),
        ("COPY a /etc/passwd/x", "cannot copy to non-directory: /etc/passwd", ""),
        ("COPY dirs /", "cannot replace the folder /etc with a file", ""),
        ("COPY --chmod=99 a /x", "invalid chmod parameter", ""),
        ("COPY --chown=nobody-here a /x", "no user 'nobody-here'", ""),
        ("COPY --from=later a /x", "it needs to be defined before", ""),
        ("COPY --from=9 a /x", "invalid stage index 9", ""),
        ("RUN --mount=type=bind,source=missing,target=/m true", "not found", ""),
        ("RUN --mount=type=bind,target=/proc/x true", "must not lie in /proc", ""),
        ("RUN --mount=type=secret,id=s,required true", "secret s: not found", ""),
        ("STOPSIGNAL SIGNOPE", "invalid signal: SIGNOPE", ""),
        ("EXPOSE eighty", "invalid containerPort: eighty", ""),
        ('ENV A="${B:?must be given}"', "B: must be given", ""),
        ("ADD file:///etc/passwd /x", "not found", ""),
    ],
)
def test_what_cannot_be_done_names_its_line(node: BuildNode, line: str, message: str, hint: str) -> None:
    """BU-02 among others: a link out of the context is simply not there."""
    files = {
        "a": "1",
        "b": "2",
        "ignored": "3",
        ".dockerignore": "ignored",
        "leak": "->/etc/hostname",
        "dirs/etc": "x",
    }
    with pytest.raises(EngineError) as caught:
        node.build(f"{BASE}{line}\nFROM scratch AS later\n", files=files, target="0")
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.context["line"] == 2


def _archive(mode: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        info = tarfile.TarInfo("in/side")
        info.size, info.uid, info.gid, info.mode = 2, 7, 8, 0o600
        archive.addfile(info, io.BytesIO(b"ok"))
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_add_unpacks_archives_whatever_they_are_called(node: BuildNode, mode: str) -> None:
    files = {"any.name": _archive(mode), "plain.tar": "no archive"}
    result = node.build(
        "FROM scratch\nADD any.name /a\nADD --chown=1:2 any.name /b\nADD --unpack=false any.name /c/\nADD plain.tar /d/\n",
        files=files,
    )
    tree = node.tree(result)
    assert (tree["a/in/side"], tree["b/in/side"]) == ("file 600 7:8 ok", "file 600 1:2 ok")
    assert "c/any.name" in tree
    assert tree["d/plain.tar"].endswith("no archive")


def test_mounts_of_a_command_do_not_become_files(node: BuildNode) -> None:
    result = node.build(
        "FROM busybox:test AS one\nRUN echo built > /out\n" + BASE + "RUN"
        " --mount=type=bind,source=d,target=/ctx --mount=from=one,source=/out,target=/stage"
        " --mount=type=tmpfs,target=/t,size=1m --mount=type=cache,target=/cache,uid=1000,mode=0700"
        " cat /ctx/f /stage > /got; touch /t/x; touch /cache/y; stat -c '%u %a' /cache >> /got; id -u >> /got;"
        " touch /ctx/f 2>/dev/null || echo read-only >> /got\n",
        files={"d/f": "context\n"},
    )
    assert node.text(result, "got") == "context\nbuilt\n1000 700\n0\nread-only\n"
    assert not {"ctx", "stage", "t", "cache"} & set(node.tree(result))


def test_a_cache_mount_keeps_its_files_between_builds(node: BuildNode) -> None:
    line = "RUN --mount=type=cache,id=counter,target=/c echo x >> /c/n; wc -l < /c/n\n"
    node.build(BASE + line)
    node.build(BASE + line, no_cache=True)
    assert node.told.lines("stdout") == ["2"]


def test_a_writable_bind_forgets_what_was_written(node: BuildNode) -> None:
    for source in ("", "from=busybox:test,source=/etc,"):
        result = node.build(
            BASE
            + f"RUN --mount=type=bind,{source}target=/m,rw echo new > /m/made; cat /m/made > /a; rm /m/* || true\n",
            files={"f": "1"},
        )
        assert node.text(result, "a") == "new\n"
    assert "etc/passwd" in node.tree(node.build(BASE))


def test_secrets_reach_a_command_and_nothing_else(node: BuildNode) -> None:
    """BU-10: not in layers, history, cache or log."""
    secret = b"very-secret-value-4711"
    result = node.build(
        BASE
        + "RUN --mount=type=secret,id=pw cat /run/secrets/pw; stat -c '%a %u' /run/secrets/pw; echo done\n"
        'RUN --mount=type=secret,id=pw,env=TOKEN echo $TOKEN; test -n "$TOKEN"\n'
        "RUN --mount=type=secret,id=pw,target=/s,uid=1000,mode=0444 stat -c '%a %u' /s; test ! -e /run/secrets/pw\n"
        "RUN --mount=type=secret,id=other test ! -e /run/secrets/other\n",
        secrets={"pw": secret},
    )
    assert node.told.lines("stdout") == ["***400 0", "done", "***", "444 1000"]
    everything = b"".join(path.read_bytes() for path in node.config.data_root.rglob("*") if path.is_file())
    assert secret not in everything
    assert secret.decode() not in str(node.told.reports) + str(node.image(result))


def test_a_changed_secret_does_not_miss_the_cache(node: BuildNode) -> None:
    text = BASE + "RUN --mount=type=secret,id=a cat /run/secrets/a > /dev/null\n"
    first = node.build(text, secrets={"a": b"12345"})
    assert node.build(text, secrets={"a": b"67890"}).image_id == first.image_id


def test_an_agent_is_reached_through_a_socket_of_the_step(node: BuildNode, tmp_path: Path) -> None:
    """The step's user may open it, the agent's own socket stays closed to it, and nothing of it is in the image."""
    agent = socket.socket(socket.AF_UNIX)
    agent.bind(str(tmp_path / "agent"))
    agent.listen()

    def answer() -> None:
        connection, _ = agent.accept()
        with connection:
            connection.sendall(b"answer to " + connection.recv(100))

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    place = tmp_path / "inside"
    with AgentProxy(place, tmp_path / "agent", owner=(1000, 1000), mode=0o600):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(place))
            client.sendall(b"question")
            assert client.recv(100) == b"answer to question"
    thread.join(5)
    result = node.build(
        BASE + "RUN --mount=type=ssh,required,uid=1000 stat -c '%F %u %a' $SSH_AUTH_SOCK\n"
        'RUN --mount=type=ssh,id=other test -z "$SSH_AUTH_SOCK"\n',
        ssh={"default": tmp_path / "agent"},
    )
    agent.close()
    assert node.told.lines("stdout") == ["socket 1000 600"]
    assert not any("ssh_agent" in name for name in node.tree(result))


def test_privilege_is_for_admins(node: BuildNode) -> None:
    """BU-05: refused before anything runs; a syntax directive starts nothing."""
    for flag in ("--security=insecure", "--network=host"):
        with pytest.raises(Denied, match=flag):
            node.build(BASE + f"RUN echo first\nRUN {flag} true\n")
        assert node.told.lines("stdout") == []
    node.build("# syntax=evil.example/frontend\n" + BASE + "RUN true\n")
    node.build(BASE + "RUN --security=insecure --network=host true\n", may_be_privileged=True)


def test_a_command_without_network_has_only_loopback(node: BuildNode) -> None:
    node.build(BASE + "RUN --network=none ip -o link | wc -l\nRUN ip -o link | wc -l\n")
    assert node.told.lines("stdout") == ["1", "2"]


def test_extra_hosts_and_shared_memory_are_given(node: BuildNode) -> None:
    node.build(
        BASE + "RUN grep db /etc/hosts; df -m /dev/shm | tail -1 | awk '{print $2}'\n",
        extra_hosts=["db:10.0.0.7"],
        shm_size_bytes=8 << 20,
    )
    assert node.told.lines("stdout") == ["10.0.0.7\tdb", "8"]


def test_unneeded_stages_are_skipped_whatever_is_in_them(node: BuildNode) -> None:
    result = node.build(
        "FROM not-there:at-all AS broken\nRUN exit 1\nFROM busybox:test AS used\nRUN touch /u\nFROM scratch\nCOPY --from=used /u /\n"
    )
    assert list(node.tree(result)) == ["u"]
    assert any("skipped: broken" in line for line in node.told.lines())


def test_a_target_ends_the_build_there(node: BuildNode) -> None:
    text = BASE.replace("\n", " AS one\n") + "RUN touch /one\nFROM one AS two\nRUN exit 1\n"
    assert "one" in node.tree(node.build(text, target="ONE"))
    with pytest.raises(DockerfileError) as caught:
        node.build(text, target="oen")
    assert (caught.value.message, caught.value.hint) == (
        'target stage "oen" could not be found',
        "did you mean one?",
    )


def test_a_missing_base_names_its_line(node: BuildNode) -> None:
    with pytest.raises(ImageNotFound) as caught:
        node.build("# a comment\nFROM nothing:here\n")
    assert caught.value.context["line"] == 2


def test_a_foreign_platform_is_refused_where_something_must_run(node: BuildNode) -> None:
    result = node.build("FROM --platform=linux/s390x scratch\nCOPY a /a\n", files={"a": "1"})
    assert node.image(result).config.architecture == "s390x"
    with pytest.raises(Unsupported, match="RUN needs linux/s390x"):
        node.build("FROM --platform=linux/s390x scratch\nCOPY a /a\nRUN true\n", files={"a": "1"})


def test_the_dockerfile_is_found_in_the_context_even_if_ignored(node: BuildNode) -> None:
    files = {"sub/My.df": "FROM scratch\nCOPY . /\n", ".dockerignore": "sub\n.dockerignore\n", "a": "1"}
    assert list(node.tree(node.build(files=files, dockerfile_path="sub/My.df"))) == ["a"]
    with pytest.raises(DockerfileError, match="failed to read dockerfile"):
        node.build(files=files)


def test_wildcards_that_match_nothing_copy_nothing(node: BuildNode) -> None:
    result = node.build("FROM scratch\nCOPY *.none /x/\nCOPY a /a\n", files={"a": "1"})
    assert "no file matches *.none" in node.told.lines()
    assert "a" in node.tree(result)


def test_unused_arguments_are_named(node: BuildNode) -> None:
    node.build(BASE, build_args={"FOO": "1"})
    assert "[Warning] One or more build-args [FOO] were not consumed" in node.told.lines()


def test_a_wrong_tag_is_refused_before_the_build(node: BuildNode) -> None:
    with pytest.raises(InvalidInput):
        node.build(BASE + "RUN echo ran\n", tags=["Not A Tag"])
    assert node.told.lines("stdout") == []


def test_squash_makes_one_layer_of_what_was_built(node: BuildNode) -> None:
    text = (
        BASE
        + "RUN mkdir /d && echo 1 > /d/a && echo 2 > /d/b\nRUN rm /d/a /etc/group && chmod 700 /d\nCOPY f /d/\nRUN rm -r /home\n"
    )
    plain, squashed = node.build(text, files={"f": "3"}), node.build(text, files={"f": "3"}, squash=True)
    assert node.tree(squashed) == node.tree(plain)
    base = len(node.images.resolve("busybox:test").layers)
    assert (len(node.image(plain).layers), len(node.image(squashed).layers)) == (base + 4, base + 1)
    history = node.image(squashed).config.history
    assert sum(not entry.empty_layer for entry in history) == base + 1
