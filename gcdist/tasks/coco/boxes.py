"""Boxes as (x0, y0, x1, y1) in pixels: overlap and non-maximum suppression, in plain torch and numpy."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def areas(boxes_B4: Tensor) -> Tensor:
    """Area of each box, (B,)."""
    return (boxes_B4[..., 2] - boxes_B4[..., 0]) * (boxes_B4[..., 3] - boxes_B4[..., 1])


def giou(a_B4: Tensor, b_B4: Tensor) -> Tensor:
    """Generalised overlap of pairs, (B,) in (-1, 1]: IoU minus the share of the hull that neither covers.

    Rezatofighi et al., CVPR 2019. Boxes have positive sides.

    >>> giou(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[0.0, 0, 2, 1]])).item()
    0.5
    """
    low, high = torch.maximum(a_B4[:, :2], b_B4[:, :2]), torch.minimum(a_B4[:, 2:], b_B4[:, 2:])
    inner = (high - low).clamp(min=0).prod(1)
    hull = (torch.maximum(a_B4[:, 2:], b_B4[:, 2:]) - torch.minimum(a_B4[:, :2], b_B4[:, :2])).prod(1)
    union = areas(a_B4) + areas(b_B4) - inner
    return inner / union - (hull - union) / hull


def nms(boxes_B4: Tensor, scores_B: Tensor, iou_threshold: float) -> Tensor:
    """Indices of the kept boxes, best score first: each drops later boxes with an overlap above the threshold.

    Equal scores keep their order. The same contract as ``torchvision.ops.nms``.

    >>> box = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 0, 30, 10]])
    >>> nms(box, torch.tensor([0.3, 0.9, 0.1]), 0.5).tolist()
    [1, 2]
    """
    order = torch.sort(scores_B, descending=True, stable=True).indices
    box = boxes_B4[order].detach().cpu().double().numpy()
    area = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
    dropped = np.zeros(len(box), np.bool_)
    kept = []
    for i in range(len(box)):
        if dropped[i]:
            continue
        kept.append(i)
        rest = box[i + 1 :]
        wide = np.minimum(rest[:, 2], box[i, 2]) - np.maximum(rest[:, 0], box[i, 0])
        high = np.minimum(rest[:, 3], box[i, 3]) - np.maximum(rest[:, 1], box[i, 1])
        inner = np.maximum(wide, 0) * np.maximum(high, 0)
        dropped[i + 1 :] |= inner > iou_threshold * (area[i + 1 :] + area[i] - inner)
    return order[torch.tensor(kept, dtype=torch.int64, device=order.device)]


def nms_by_label(boxes_B4: Tensor, scores_B: Tensor, labels_B: Tensor, iou_threshold: float) -> Tensor:
    """`nms` within each label: boxes of different labels are moved apart, so that they never overlap."""
    if not len(boxes_B4):
        return torch.zeros(0, dtype=torch.int64, device=boxes_B4.device)
    apart = (boxes_B4.max() - boxes_B4.min() + 1) * labels_B.to(boxes_B4)
    return nms(boxes_B4 + apart[:, None], scores_B, iou_threshold)
