"""Nothing is compiled within a run: what was warmed before the first round is all that rounds use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
from pathlib import Path
import gcdist
from gcdist.exchange.kernel_cache import warm_kernels
from gcdist.quantize import get_quantizer
from gcdist.quantize.jit import cache_folder
from gcdist.tasks import digits

kept = lambda: sorted(path.name for path in Path(cache_folder()).rglob("*.nbi"))
scheme, name, out = sys.argv[1:]
warm_kernels(get_quantizer(name))
before = kept()
task = digits.build(4, "mlp")
config = {"code": {"scheme": scheme}, "quantizer": {"name": name}, "cluster": {"workers": 2}, "out": out}
with gcdist.simulate(task, config, show=False) as cluster:
    for step in cluster.steps(3):
        step.backward()
assert before, "no kernel is kept"
assert kept() == before, sorted(set(kept()) - set(before))
"""


@pytest.mark.parametrize(("scheme", "quantizer"), [("sync", "float32"), ("auto", "rotated-dither")])
def test_a_run_compiles_nothing_that_was_not_warmed(scheme: str, quantizer: str, tmp_path: Path) -> None:
    env = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", SCRIPT, scheme, quantizer, str(tmp_path / "runs")]
    found = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert found.returncode == 0, found.stderr[-2000:]
