"""Run by test_checkpoint: a writer is killed at each of its steps on the disk; the checkpoint before must be readable."""

from __future__ import annotations

import os
import pathlib
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from gcdist.run import checkpoint
from gcdist.run.checkpoint import newest_checkpoint, write_checkpoint

torch.set_num_threads(1)


def save(folder: Path, step: int) -> None:
    tensors = {"w": torch.full((1000,), float(step))}
    write_checkpoint(folder, step, tensors, {"step": step, "x": torch.full((7,), step)}, keep=1)


def killed_at(moment: int) -> None:
    """From here on the process dies just before its ``moment``-th change of the disk, or half-way through a write."""
    left = [moment]

    def dying(real: Callable[..., Any], half: Callable[..., Any] | None = None) -> Callable[..., Any]:
        def call(*given: Any, **more: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                if half is not None:
                    half(*given, **more)
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*given, **more)

        return call

    def half_tensors(tensors: Any, path: Path) -> None:
        save_file(tensors, path)
        os.truncate(path, path.stat().st_size // 2)

    def half_text(path: Path, text: str, **more: Any) -> None:
        write_text(path, text[: len(text) // 2], **more)

    def half_tree(path: Path) -> None:
        next(Path(path).iterdir()).unlink()

    write_text = pathlib.Path.write_text
    setattr(checkpoint, "save_file", dying(save_file, half_tensors))  # noqa: B010
    pathlib.Path.write_text = dying(write_text, half_text)  # type: ignore[method-assign]
    pathlib.Path.mkdir = dying(pathlib.Path.mkdir)  # type: ignore[method-assign]
    os.rename = dying(os.rename)
    os.fsync = dying(os.fsync)
    shutil.rmtree = dying(shutil.rmtree, half_tree)  # type: ignore[assignment]


def damaged(line: str) -> None:
    raise SystemExit(f"found a damaged checkpoint under a final name: {line}")


def main(folder: Path) -> None:
    step, deaths = 1, 0
    save(folder, step)
    while True:
        moment = deaths + 1
        child = os.fork()
        if child == 0:
            killed_at(moment)
            save(folder, step + 1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        found = newest_checkpoint(folder, damaged)
        assert found is not None
        assert found.step in (step, step + 1), f"killed at {moment}: step {found.step} of {step + 1}"
        assert found.model["w"].eq(found.step).all()
        assert found.state["x"].eq(found.step).all()
        step = found.step
        if status == 0:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        deaths += 1
    assert [path.name for path in folder.iterdir()] == [f"step-{step:08d}"]
    print(deaths)


main(Path(sys.argv[1]))
