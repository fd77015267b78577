"""`gcdist doctor`: what stands in the way of a run on these machines, and the line that fixes it."""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from gcdist.config import ClusterConfig, ConfigError, load_config
from gcdist.doctor import Finding, address, links, machine, network, software, tls_port, verdict, worth
from gcdist.doctor.connect import SilentError, connect
from gcdist.doctor.probe import probe as probe_run
from gcdist.doctor.recorded import from_csv, from_run
from gcdist.doctor.serve import serve as answer
from gcdist.doctor.wire import WireError
from gcdist.exchange.planes import credentials
from gcdist.transport import is_loopback

PORT = 29500  # torchrun's default, where the run's store will be
_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def doctor(
    connect_to: Annotated[
        str | None,
        typer.Option(
            "--connect", metavar="HOST[:PORT]", help="Measure the network to a gcdist doctor --serve at this address."
        ),
    ] = None,
    serve_at: Annotated[
        str | None,
        typer.Option(
            "--serve", metavar="HOST[:PORT]", help="Check, then answer on this address (the master's machine)."
        ),
    ] = None,
    count: Annotated[
        int | None, typer.Option(help="With --serve: machines to answer before it ends; by default until Ctrl-C.")
    ] = None,
    run: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Is coding worth it? From the times in this run's folder.")
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="The same from a table: a row a step, a column a worker, seconds."),
    ] = None,
    settings: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE.toml",
            help="Also check what protects this run's links; over TLS, its one port.",
        ),
    ] = None,
    trace_unit: Annotated[float, typer.Option(help="Seconds of one unit of the table.")] = 1.0,
    probe: Annotated[
        Path | None,
        typer.Option(metavar="CONFIG", help="The same from a short run of this config by processes of this machine."),
    ] = None,
    workers: Annotated[int | None, typer.Option("-n", help="With --probe: workers; by default the config's.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check this machine, and the network between machines, before a run. Exit code 1 if something must be fixed.

    A port that is not given is MASTER_PORT, or 29500. GCDIST_SECRET is checked at both ends and never sent.

    Example: gcdist doctor

    Example: on the master's machine gcdist doctor --serve node0, on each other one gcdist doctor --connect node0

    Example: gcdist doctor --config my.toml

    Example: gcdist doctor --config my.toml --connect node0, of a run over TLS: its one port, both proofs, clocks

    Example: gcdist doctor --run runs/first

    Example: gcdist doctor --probe my.toml -n 4
    """
    if sum(given is not None for given in (connect_to, serve_at)) > 1:
        raise ConfigError("doctor: give --connect or --serve, not both")
    if count is not None and (serve_at is None or count < 1):
        raise ConfigError(f"doctor --count: found {count}; should be 1 or more, with --serve")
    if sum(given is not None for given in (run, trace, probe)) > 1:
        raise ConfigError("doctor: give one of --run, --trace and --probe")
    if workers is not None and (probe is None or workers < 2):
        raise ConfigError(f"doctor -n: found {workers}; should be 2 or more, with --probe")
    if not trace_unit > 0:
        raise ConfigError(f"doctor --trace-unit: found {trace_unit}; should be seconds above 0")
    place = _place("--connect", connect_to) or _place("--serve", serve_at)
    about: dict[str, Any] = {}
    asked = run is not None or trace is not None or probe is not None
    if asked and place is None:
        findings = _worth(run, trace, trace_unit, probe, workers, about)
    else:
        cluster = None if settings is None else load_config(settings).cluster
        findings = _here(place, serve_at is not None)
        if cluster is not None:
            findings += links.judge_links(cluster)
            if cluster.transport == "tls":
                findings += _exposed(cluster, place, serve_at is not None)
        if connect_to is not None and place is not None:
            findings += _way(*place, cluster, about)
        if asked:
            findings += _worth(run, trace, trace_unit, probe, workers, about)
    result = verdict(findings)
    if as_json:
        print(json.dumps({"verdict": result, "findings": [asdict(each) for each in findings], **about}), flush=True)
    else:
        _show(findings)
    if serve_at is not None and place is not None:
        _serve(*place, count)
    raise typer.Exit(int(result == "fail"))


def _secret() -> str | None:
    return os.environ.get("GCDIST_SECRET", "").strip() or None


def _place(option: str, text: str | None) -> tuple[str, int] | None:
    """HOST[:PORT]; ConfigError."""
    if text is None:
        return None
    host, colon, port = text.partition(":") if text.count(":") < 2 else (text, "", "")
    number = port if colon else os.environ.get("MASTER_PORT", "") or str(PORT)
    if not host or not number.isdecimal() or not 0 < int(number) < 1 << 16:
        raise ConfigError(f"doctor {option}: found {text!r}; should be HOST or HOST:PORT, with a port of 1 to 65535")
    return host, int(number)


def _here(place: tuple[str, int] | None, serves: bool) -> list[Finding]:
    """This machine by itself."""
    host = place[0] if place is not None else os.environ.get("MASTER_ADDR") or None
    alone = host is None or _this_machine(host)
    master = serves or (place is None and os.environ.get("RANK", "0") == "0")
    findings = [
        *software.judge_versions(software.versions(), software.has_gloo()),
        *machine.judge(machine.measure(_secret()), alone),
        *address.judge(address.look(host), master, alone),
    ]
    port = os.environ.get("MASTER_PORT", "")
    if serves and place is not None:
        findings.append(address.judge_port(*place, address.why_taken(*place)))
    elif master and host and port.isdecimal():
        findings.append(address.judge_port(host, int(port), address.why_taken(host, int(port))))
    return findings


def _this_machine(host: str) -> bool:
    """Whether the user named this very machine, by address: then nobody else takes part.

    >>> _this_machine("127.0.0.1"), _this_machine("localhost"), _this_machine("node0")
    (True, True, False)
    """
    try:
        return host == "localhost" or is_loopback(host)
    except ValueError:  # a name; what it means here is to be found out
        return False


def _rank() -> int:
    """The worker that this machine will have: RANK, else 1."""
    rank = os.environ.get("RANK", "")
    return int(rank) if rank.isdecimal() and int(rank) > 0 else 1


def _exposed(cluster: ClusterConfig, place: tuple[str, int] | None, serves: bool) -> list[Finding]:
    """What the master over TLS will leave open, where this machine is to be the master's and the place is known."""
    if serves and place is not None:
        return [tls_port.exposed(place[0], cluster.port or place[1])]
    host, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT", "")
    if place is None and host and os.environ.get("RANK", "0") == "0" and (cluster.port or port.isdecimal()):
        return [tls_port.exposed(host, cluster.port or int(port))]
    return []


def _way(host: str, port: int, cluster: ClusterConfig | None, about: dict[str, Any]) -> list[Finding]:
    """The network to the other end."""
    tls = cluster if cluster is not None and cluster.transport == "tls" else None
    try:
        seen = connect(host, port, _secret(), one_port=tls is not None)
    except SilentError as error:
        if tls is None:
            return [network.unreachable(host, port, str(error))]
        return [tls_port.ask_master(host, port, credentials(tls, _rank()))]
    except WireError as error:
        return [network.unreachable(host, port, str(error))]
    about["measured"] = asdict(seen)
    found = network.judge(seen, software.versions(), socket.gethostname(), one_port=tls is not None)
    return found if tls is None else [*found, tls_port.reached(host, port), *tls_port.judge_clock(tls, seen.skew)]


def _worth(
    run: Path | None, trace: Path | None, unit: float, probed: Path | None, workers: int | None, about: dict[str, Any]
) -> list[Finding]:
    try:
        if probed is not None:
            count = workers or load_config(probed).cluster.workers
            if count is None:
                raise ConfigError("doctor --probe: give the number of workers: -n")
            with tempfile.TemporaryDirectory(prefix="gcdist-probe-") as folder:
                found = probe_run(probed, count, Path(folder))
        elif run is not None:
            found = from_run(run)
        else:
            assert trace is not None
            found = from_csv(trace, unit)
        comparison = worth.weigh(found)
    except ValueError as error:
        raise ConfigError(f"doctor: {error}") from None
    about["coding"] = comparison.as_dict()
    return [worth.finding(comparison)]


def _serve(host: str, port: int, count: int | None) -> None:
    try:
        answer(host, port, _secret(), lambda text: print(f"gcdist doctor: {text}", file=sys.stderr, flush=True), count)
    except KeyboardInterrupt:
        return
    except OSError as error:
        raise ConfigError(f"doctor --serve: cannot listen at {host}:{port}: {error.strerror}") from None


def _show(findings: list[Finding]) -> None:
    console, width = Console(), max(len(each.check) for each in findings)
    for each in findings:
        line = Text.assemble((f"{each.level:<4}", _STYLES[each.level]), f"  {each.check:<{width}}  {each.text}")
        console.print(line, soft_wrap=True, highlight=False)
        if each.fix:
            console.print(Text(f"{'':<{width + 8}}fix: {each.fix}"), soft_wrap=True, highlight=False)
    counts = {level: sum(each.level == level for each in findings) for level in ("fail", "warn")}
    words = f"{counts['fail']} to fix, {counts['warn']} to look at" if any(counts.values()) else "nothing to fix"
    console.print(f"\n{words}", highlight=False)
