"""`python -m engine`: a thin command over the façade, for working on the engine alone (as root).

python -m engine build -t hello:1 examples/hello
python -m engine run -p 8080:8080 hello:1
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from engine.build.request import BuildRequest
from engine.config import EngineConfig
from engine.containers.model import ContainerSpec, PortSpec
from engine.engine import Engine
from engine.errors import EngineError
from engine.network.ports import parse_port
from engine.progress import Message, Report, StepProgress
from engine.runtime.log_reader import Gap, LogQuery


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(Engine(EngineConfig.from_home(options.home)), options) or 0)
    except EngineError as error:
        print(f"engine: {error.message}{f' ({error.hint})' if error.hint else ''}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def build(engine: Engine, options: argparse.Namespace) -> int:
    result = engine.build(
        request=BuildRequest(
            context=Path(options.context),
            dockerfile_path=options.file,
            tags=options.tag,
            target=options.target,
            no_cache=options.no_cache,
            build_args=dict(pair.partition("=")[::2] for pair in options.build_arg),
        ),
        report=say,
    )
    for advice in result.advice:
        print(f"advice, line {advice.line}: {advice.message}", file=sys.stderr)
    print(result.image_id)
    return 0


def say(report: Report) -> None:
    """Print what a build tells of itself."""
    if isinstance(report, StepProgress) and report.status in ("running", "cached", "failed"):
        note = f"  [{report.reason}]" if report.reason else ""
        print(f"{report.status:<8}{report.name}{note}", file=sys.stderr)
    elif isinstance(report, Message):
        print(report.text.rstrip("\n"), file=sys.stderr)


def run(engine: Engine, options: argparse.Namespace) -> int:
    spec = ContainerSpec(
        image=options.image, name=options.name, command=options.command or None, ports=_ports(options.publish)
    )
    container = engine.start(container=engine.create(spec=spec, pull="missing").id)
    if options.detach:
        print(container.id)
        return 0
    try:
        _print_log(engine, container.id, LogQuery(follow=True))
        return engine.wait(container=container.id).exit_code
    finally:
        engine.remove(container=container.id, force=True, volumes=True)


def _ports(texts: Sequence[str]) -> list[PortSpec]:
    return [port for text in texts for port in parse_port(text)]


def ps(engine: Engine, options: argparse.Namespace) -> int:
    print(f"{'ID':<14}{'NAME':<26}{'IMAGE':<30}{'STATUS':<12}PORTS")
    for item in engine.container_list():
        if options.all or item.status.is_alive():
            ports = ", ".join(
                f"{port.host_ip}:{port.host_port}->{port.container_port}" for port in item.ports
            )
            print(f"{item.id[:12]:<14}{item.name:<26}{item.image:<30}{item.status:<12}{ports}")
    return 0


def images(engine: Engine, options: argparse.Namespace) -> int:
    del options
    print(f"{'ID':<14}{'NAME':<50}SIZE")
    for image in engine.image_list():
        for name in image.familiar_names() or ["<none>"]:
            print(f"{image.id[7:19]:<14}{name:<50}{image.size:,}")
    return 0


def logs(engine: Engine, options: argparse.Namespace) -> int:
    since_ns = int((time.time() - options.since) * 1e9) if options.since else 0
    _print_log(
        engine, options.container, LogQuery(follow=options.follow, tail=options.tail, since_ns=since_ns)
    )
    return 0


def _print_log(engine: Engine, container: str, query: LogQuery) -> None:
    for entries in engine.logs(container=container, query=query):
        for entry in entries:
            if isinstance(entry, Gap):
                print(f"[{entry.missed_bytes} bytes of the log are gone]", file=sys.stderr)
                continue
            out = sys.stderr.buffer if entry.stream == "stderr" else sys.stdout.buffer
            out.write(entry.text)
            out.flush()


def stop(engine: Engine, options: argparse.Namespace) -> int:
    for name in options.containers:
        print(engine.stop(container=name).name)
    return 0


def rm(engine: Engine, options: argparse.Namespace) -> int:
    for name in options.containers:
        print(engine.remove(container=name, force=options.force, volumes=True)[:12])
    return 0


def events(engine: Engine, options: argparse.Namespace) -> int:
    for event in engine.events_after(seq=options.after):
        moment = datetime.fromtimestamp(event.time_ns / 1e9, UTC).isoformat(timespec="milliseconds")
        print(
            f"{event.seq} {moment} {event.type} {event.action} {event.attributes.get('name', event.subject[:12])}"
        )
    return 0


def check(engine: Engine, options: argparse.Namespace) -> int:
    findings = engine.check(deep=options.deep)
    for finding in findings:
        print(f"{finding.kind}: {finding.detail}")
    return 1 if findings else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m engine", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--home", default="", help="WHARFINGER_HOME (default: /var/lib/wharfinger)")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(function: Callable[[Engine, argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(function.__name__, help=text)
        made.set_defaults(run=function)
        return made

    one = command(build, "build an image from a folder or an archive")
    one.add_argument("context")
    one.add_argument("-t", "--tag", action="append", default=[])
    one.add_argument("-f", "--file", default="Dockerfile")
    one.add_argument("--target", default="")
    one.add_argument("--build-arg", action="append", default=[])
    one.add_argument("--no-cache", action="store_true")
    one = command(run, "run a container, follow its log and remove it at its end")
    one.add_argument("image")
    one.add_argument("command", nargs=argparse.REMAINDER)
    one.add_argument("--name", default="")
    one.add_argument("-p", "--publish", action="append", default=[])
    one.add_argument("-d", "--detach", action="store_true")
    command(ps, "list containers").add_argument("-a", "--all", action="store_true")
    command(images, "list images")
    one = command(logs, "print a container's log")
    one.add_argument("container")
    one.add_argument("-f", "--follow", action="store_true")
    one.add_argument("--tail", type=int)
    one.add_argument("--since", type=float, default=0.0, help="seconds ago")
    command(stop, "stop containers").add_argument("containers", nargs="+")
    one = command(rm, "remove containers")
    one.add_argument("containers", nargs="+")
    one.add_argument("-f", "--force", action="store_true")
    command(events, "print the journal").add_argument("--after", type=int, default=0)
    command(check, "find what does not match on disk and in the kernel").add_argument(
        "--deep", action="store_true"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
