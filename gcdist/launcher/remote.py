"""The far end of `gcdist launch ssh`: runs one command while beats of the launcher arrive. Started by it through ssh.

Standard input has a line of JSON, the order, and then a number a line: a signal for the command, 0 for a beat. At the
end of input, or after ``silence`` seconds without a line, the command gets SIGTERM, then SIGKILL. So no argument of the
user reaches a shell of this host, and the list of processes shows nothing of the order.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
from typing import Any, NoReturn

from gcdist.launcher import sweep
from gcdist.launcher.loop import guarded

HERE = b"\x01gcdist "  # prefix of the line that confirms the connection to the launcher
TERM_SECONDS = 10.0  # from SIGTERM to SIGKILL
BAD_INPUT = 2


def main() -> int:
    """Run the order on standard input; the command's exit code, or 128 + the signal that killed it."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    line = _Input().line(60.0)
    if not line:
        _refuse("no order came through the connection")
    order: dict[str, Any] = json.loads(line)
    mark = order["mark"]
    run_and_rank = mark.rpartition(".")[0]
    sweep.end_marked(run_and_rank)  # an earlier life that outlived its broken connection
    os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])
    os.environ.update(order["env"])
    workdir = os.path.expanduser(order["workdir"] or "~")
    try:
        os.chdir(workdir)
    except OSError as error:
        _refuse(f"workdir {workdir}: {error.strerror}")
    command = order["command"]
    program = shutil.which(command[0])
    if program is None:
        _refuse(f"{command[0]!r} is not found or not executable (a script needs its interpreter: python ...)")
    env = os.environ | {sweep.VARIABLE: sweep.with_mark(os.environ.get(sweep.VARIABLE, ""), mark)}
    with guarded(mark):
        try:
            child = subprocess.Popen(
                command, executable=program, env=env, stdin=subprocess.DEVNULL, start_new_session=True,
                preexec_fn=_in_the_child,
            )  # fmt: skip
        except OSError as error:
            _refuse(f"{program} cannot be run: {error.strerror}")
        threading.Thread(target=_listen, args=(child, float(order["silence"])), daemon=True).start()
        status = child.wait()
        sweep.end_marked(mark)
    # ssh's own failure is 255
    return 128 - status if status < 0 else min(status, 254)


def _listen(child: subprocess.Popen[bytes], silence: float) -> None:
    lines = _Input()
    while line := lines.line(silence):
        number = int(line)
        if number:
            child.send_signal(number)
    child.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(TERM_SECONDS)
        return
    child.kill()


class _Input:
    """Whole lines of standard input, read byte by byte, so that no byte of another reader is taken."""

    def line(self, seconds: float) -> bytes:
        """The next line; b"" at the end or after ``seconds`` without one."""
        found = bytearray()
        while not found.endswith(b"\n"):
            if not select.select([0], [], [], seconds)[0]:
                return b""
            more = os.read(0, 1)
            if not more:
                return b""
            found += more
        return bytes(found)


def _in_the_child() -> None:
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    os.write(2, HERE + b"%d\n" % os.getpid())  # written here, before any output of the command


def _refuse(text: str) -> NoReturn:
    print(f"gcdist launch: {os.uname().nodename}: {text}", file=sys.stderr)
    sys.exit(BAD_INPUT)
