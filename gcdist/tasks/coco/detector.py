"""The compact detector: anchor-free, one stage, about 1e5 parameters, plain torch.

After FCOS (Tian et al., ICCV 2019): every cell of three grids predicts, for each class, whether an object's centre is
near, and the distances to the four sides of its box. A box belongs to the grid that suits its size. Normalisation is
GroupNorm, so that a batch of one image trains, and images of a batch are independent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from gcdist.tasks.coco.boxes import areas, giou, nms_by_label

STRIDES = (4, 8, 16)
LARGEST = (24.0, 56.0, math.inf)  # pixels: the longer side of the boxes of each grid
RADIUS = 1.25  # cells: most distance of a positive cell from the centre of its box, unless it is the nearest
PRIOR = 0.01  # score of every cell and class before training
GAMMA = 2.0  # of the focal loss
KEPT, CANDIDATES, OVERLAP = 100, 300, 0.6  # detections an image, at most; candidates before nms; nms threshold


def block(inner: int, outer: int, stride: int = 1) -> nn.Sequential:
    """3x3 convolution, GroupNorm, SiLU."""
    return nn.Sequential(
        nn.Conv2d(inner, outer, 3, stride, padding=1, bias=False), nn.GroupNorm(8, outer), nn.SiLU(inplace=True)
    )


class CompactDetector(nn.Module):
    """``model(images, targets)`` gives losses in training mode; ``model(images)`` gives detections in eval mode.

    Args:
        classes: labels are 1 to ``classes - 1``, as torchvision's detectors count them (0 is background).
        least: the lowest score of a detection.

    Images are a list of float tensors (3, H, W) of one size, in 0..1; targets a list of dicts of ``boxes`` (n, 4) in
    pixels and ``labels`` (n,). Losses are ``classification`` and ``boxes``, each summed over the batch and divided by
    its number of positive cells, which defines a partition's loss. Detections are dicts of boxes, labels and scores,
    best first.
    """

    def __init__(self, classes: int = 91, least: float = 0.02) -> None:
        super().__init__()
        self.least = least
        self.stem = nn.Sequential(block(3, 16, 2), block(16, 32, 2))
        self.down8 = nn.Sequential(block(32, 48, 2))
        self.down16 = nn.Sequential(block(48, 64, 2), block(64, 48))
        self.merge8 = nn.Conv2d(48, 48, 1)
        self.merge4 = nn.Conv2d(32, 48, 1)
        self.tower = block(48, 48)
        self.scores = nn.Conv2d(48, classes - 1, 1)
        self.sides = nn.Conv2d(48, 4, 1)
        nn.init.normal_(self.scores.weight, std=0.01)
        assert self.scores.bias is not None
        nn.init.constant_(self.scores.bias, math.log(PRIOR / (1 - PRIOR)))

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """See the class."""
        x = torch.stack(list(images)) * 4 - 2
        four = self.stem(x)
        eight = self.down8(four)
        sixteen = self.down16(eight)
        eight = self.merge8(eight) + functional.interpolate(sixteen, size=eight.shape[-2:])
        four = self.merge4(four) + functional.interpolate(eight, size=four.shape[-2:])
        scores, sides, grids = [], [], []
        for stride, level in zip(STRIDES, (four, eight, sixteen), strict=True):
            tower = self.tower(level)
            scores.append(self.scores(tower).flatten(2).transpose(1, 2))
            sides.append(self.sides(tower).clamp(max=5).exp().flatten(2).transpose(1, 2) * stride)
            grids.append(centres(stride, level.shape[-2], level.shape[-1], level.device))
        score_BPC, centre_P2 = torch.cat(scores, 1), torch.cat(grids)
        side_BP4 = torch.cat(sides, 1)
        box_BP4 = torch.cat([centre_P2 - side_BP4[..., :2], centre_P2 + side_BP4[..., 2:]], -1)
        if self.training:
            if targets is None:
                raise ValueError("the detector needs targets in training mode")
            cells = [len(grid) for grid in grids]
            return losses(score_BPC, box_BP4, centre_P2, cells, targets)
        return [self._detections(score, box, x.shape[-2:]) for score, box in zip(score_BPC, box_BP4, strict=True)]

    def _detections(self, score_PC: Tensor, box_P4: Tensor, size: torch.Size) -> dict[str, Tensor]:
        score, at = score_PC.sigmoid().flatten().topk(min(CANDIDATES, score_PC.numel()))
        good = score > self.least
        score, at = score[good], at[good]
        high, wide = size
        box = box_P4[at // score_PC.shape[1]].clamp(min=0)
        box = torch.minimum(box, box.new_tensor([wide, high, wide, high]))
        label = at % score_PC.shape[1] + 1
        kept = nms_by_label(box, score, label, OVERLAP)[:KEPT]
        return {"boxes": box[kept], "labels": label[kept], "scores": score[kept]}


def centres(stride: int, rows: int, columns: int, device: torch.device) -> Tensor:
    """Centres (x, y) of the cells of a grid, (rows * columns, 2), in pixels."""
    y, x = torch.meshgrid(torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij")
    return (torch.stack([x, y], -1).reshape(-1, 2) + 0.5) * stride


def matched(centre_P2: Tensor, cells: Sequence[int], box_B4: Tensor) -> tuple[Tensor, Tensor]:
    """The positive cells and their boxes: indices of cells (m,) and of boxes (m,).

    A box takes the cells within `RADIUS` of its centre on the grid of its size, at least the nearest one. A cell of
    several boxes takes the smallest one.
    """
    middle_B2 = (box_B4[:, :2] + box_B4[:, 2:]) / 2
    longer_B = (box_B4[:, 2:] - box_B4[:, :2]).amax(1)
    away_PB = (centre_P2[:, None] - middle_B2[None]).abs().amax(-1)
    wanted_PB = torch.zeros_like(away_PB, dtype=torch.bool)
    low, first = 0.0, 0
    for stride, high, count in zip(STRIDES, LARGEST, cells, strict=True):
        away = away_PB[first : first + count]
        near = (away < RADIUS * stride) | (away == away.amin(0, keepdim=True))
        wanted_PB[first : first + count] = near & (longer_B >= low) & (longer_B < high)
        low, first = high, first + count
    # a cell outside of the box would have negative distances to its sides
    inside_PB = ((centre_P2[:, None] > box_B4[None, :, :2]) & (centre_P2[:, None] < box_B4[None, :, 2:])).all(-1)
    nearest_PB = away_PB == torch.where(wanted_PB, away_PB, math.inf).amin(0, keepdim=True)
    wanted_PB &= inside_PB | nearest_PB
    size_PB = torch.where(wanted_PB, areas(box_B4)[None], math.inf)
    least_P, box_P = size_PB.min(1)
    cell = torch.nonzero(least_P < math.inf).flatten()
    return cell, box_P[cell]


def losses(
    score_BPC: Tensor, box_BP4: Tensor, centre_P2: Tensor, cells: Sequence[int], targets: Sequence[dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Focal loss of the scores and 1 - GIoU of the boxes, over the number of positive cells of the batch (at least 1)."""
    wanted_BPC = torch.zeros_like(score_BPC)
    found, true = [], []
    for b, target in enumerate(targets):
        if len(target["boxes"]):
            cell, box = matched(centre_P2, cells, target["boxes"])
            wanted_BPC[b, cell, target["labels"][box] - 1] = 1.0
            found.append(box_BP4[b, cell])
            true.append(target["boxes"][box])
    positive = max(1, sum(len(part) for part in found))
    miss = functional.binary_cross_entropy_with_logits(score_BPC, wanted_BPC, reduction="none")
    focal = (wanted_BPC - score_BPC.sigmoid()).abs().pow(GAMMA) * miss
    overlap = giou(torch.cat(found), torch.cat(true)) if found else box_BP4.new_zeros(0)
    return {"classification": focal.sum() / positive, "boxes": (1 - overlap).sum() / positive}
