"""torchvision's detectors, also beside a CPU build of torch.

The wheel of torchvision on the package index has compiled operators that are linked for CUDA. Beside a CPU build of
torch they cannot be loaded, and then ``import torchvision`` ends with "operator torchvision::nms does not exist",
because it extends operators of the compiled part: ``nms``, and in newer releases ``qnms`` for quantized tensors. This
module defines both first, ``nms`` by the `nms` of this package, ``qnms`` by name only. One-stage detectors (SSD,
SSDLite, RetinaNet, FCOS) need no more. Two-stage detectors also need ``roi_align``, and torchvision compiles its Python
substitute with torch.compile, so they need a torchvision that fits their torch.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch import library as torch_library

from gcdist.tasks.coco.boxes import nms

NAMESPACE = "torchvision"
_defined: list[Any] = []  # a definition lasts as long as its object


def torchvision() -> Any:
    """The package, imported with a working ``nms``.

    Raises:
        ValueError: it is not installed.
    """
    spec = find_spec(NAMESPACE)
    if spec is None or spec.origin is None:
        raise ValueError("torchvision is missing: pip install 'gcdist[coco]'")
    if _compiled(Path(spec.origin).parent):
        return importlib.import_module(NAMESPACE)
    if not _defined:
        define_nms()
    package = importlib.import_module(NAMESPACE)
    # torchvision.ops.nms asks whether the compiled part is there, not whether the operator is
    boxes: Any = importlib.import_module("torchvision.ops.boxes")
    boxes._assert_has_ops = lambda: None
    return package


def define_nms() -> None:
    """Define the operators ``torchvision::nms`` and ``qnms``, which must not exist yet."""
    make: Any = vars(torch_library)["Library"]  # which has no types
    operators = make(NAMESPACE, "FRAGMENT")
    operators.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    operators.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

    def kernel(dets: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
        return nms(dets, scores, iou_threshold)

    operators.impl("nms", kernel, "CPU")
    operators.impl("nms", kernel, "CUDA")
    _defined.append(operators)


def _compiled(folder: Path) -> bool:
    """Whether torchvision's compiled operators can be loaded (which loads them)."""
    for path in folder.glob("_C*"):
        try:
            torch.ops.load_library(path)  # type: ignore[no-untyped-call]
        except OSError:
            return False
        return True
    return False


def detector(name: str, classes: int) -> nn.Module:
    """One of torchvision's detectors, untrained: ``ssdlite320_mobilenet_v3_large`` has 3,440,060 parameters for 91 classes.

    Raises:
        ValueError: torchvision is not installed, or has no detector of that name.
    """
    package = torchvision()
    names: list[str] = package.models.list_models(module=package.models.detection)
    if name not in names:
        raise ValueError(f"coco: model must be one of compact, {', '.join(names)}, found {name!r}")
    model: nn.Module = package.models.get_model(name, weights=None, weights_backbone=None, num_classes=classes)
    return model
