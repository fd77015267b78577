"""The newest figures of a run as text for Prometheus, on this machine only: ``http://127.0.0.1:PORT/metrics``."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from gcdist.observe.stream import Observer, StepRecord

HOST = "127.0.0.1"  # users on other machines forward the port: ssh -L
TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Prometheus(Observer):
    """Serves the figures until `close`; ``port`` 0 takes a free one.

    Raises:
        OSError: the port is taken.
    """

    def __init__(self, port: int) -> None:
        self._lock = threading.Lock()
        self._last: StepRecord | None = None
        self._metrics: dict[str, float] = {}
        self._steps = self._up = self._down = 0
        self._step_seconds = 0.0
        self._counted: dict[int, int] = {}
        self._times: dict[tuple[int, str], float] = {}
        self._rounds: dict[tuple[int, str], int] = {}
        self._server = ThreadingHTTPServer((HOST, port), _handler(self))
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="gcdist-prometheus", daemon=True)
        self._thread.start()

    def step(self, record: StepRecord) -> None:
        """Take in a step."""
        with self._lock:
            self._last = record
            self._steps += 1
            self._up += record.bytes_up
            self._down += record.bytes_down
            self._step_seconds += record.step_seconds
            for rank in range(1, record.workers + 1):
                self._counted.setdefault(rank, 0)
            for rank in record.arrived:
                self._counted[rank] = self._counted.get(rank, 0) + 1
            for each in record.rounds:
                for place, seconds in (("worker", each.held), ("link", each.link)):
                    key = each.worker, place
                    self._times[key] = self._times.get(key, 0.0) + (seconds or 0.0)
                self._rounds[each.worker, each.end] = self._rounds.get((each.worker, each.end), 0) + 1

    def evaluation(self, step: int, seconds: float, metrics: Mapping[str, float]) -> None:
        """Take in an evaluation."""
        with self._lock:
            self._metrics = dict(metrics)

    def close(self) -> None:
        """Stop the server."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=2.0)

    def text(self) -> str:
        """The served text."""
        with self._lock:
            last = self._last
            lines: list[str] = []
            _add(lines, "gcdist_steps_total", "counter", "Steps that have ended.", {"": self._steps})
            _add(lines, "gcdist_step_seconds_total", "counter", "Seconds in steps.", {"": self._step_seconds})
            both = {'{way="up"}': self._up, '{way="down"}': self._down}
            _add(lines, "gcdist_bytes_total", "counter", "Bytes, as the links counted them.", both)
            if last is not None:
                gauges = {
                    "loss": ("Mean loss over the partitions that arrived.", last.loss),
                    "deadline_seconds": ("Deadline of the newest step.", last.deadline),
                    "workers_live": ("Workers that are there.", float(last.live)),
                    "workers_counted": ("Workers that counted in the newest step.", float(len(last.arrived))),
                    "noise_planned": ("Error of the gradient over its square, as planned.", last.noise_planned),
                    "noise_observed": ("The same as estimated.", last.noise_observed),
                }
                for name, (text, value) in gauges.items():
                    if value is not None and math.isfinite(value):
                        _add(lines, f"gcdist_{name}", "gauge", text, {"": value})
            counted = {f'{{worker="{rank}"}}': count for rank, count in sorted(self._counted.items())}
            _add(lines, "gcdist_worker_counted_total", "counter", "Steps that counted the worker.", counted)
            times = {f'{{worker="{rank}",at="{place}"}}': value for (rank, place), value in sorted(self._times.items())}
            _add(lines, "gcdist_worker_seconds_total", "counter", "Seconds of rounds, by where.", times)
            ends = {f'{{worker="{rank}",end="{end}"}}': count for (rank, end), count in sorted(self._rounds.items())}
            _add(lines, "gcdist_worker_rounds_total", "counter", "Rounds of the worker, by how they ended.", ends)
            evaluated = {f'{{metric="{_label(name)}"}}': value for name, value in self._metrics.items()}
            _add(lines, "gcdist_evaluation", "gauge", "Metrics of the newest evaluation.", evaluated)
            return "\n".join(lines) + "\n"


def _label(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _add(lines: list[str], name: str, kind: str, text: str, values: Mapping[str, float]) -> None:
    if values:
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
        lines += [f"{name}{labels} {value:.9g}" for labels, value in values.items()]


def _handler(board: Prometheus) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path in ("/", "/metrics")
            body = board.text().encode() if found else b"not here; /metrics is\n"
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: a scrape is no event of the run."""

    return Handler
