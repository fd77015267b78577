"""Object detection on COCO: data set, compact detector, torchvision's detectors, average precision."""

from gcdist.tasks.coco.dataset import BrokenImageError, CocoImages, collate
from gcdist.tasks.coco.detector import CompactDetector
from gcdist.tasks.coco.index import AnnotationError, Index, open_index
from gcdist.tasks.coco.scoring import HeldOut, average_precision
from gcdist.tasks.coco.task import Splits, build, detection_task

__all__ = [
    "AnnotationError",
    "BrokenImageError",
    "CocoImages",
    "CompactDetector",
    "HeldOut",
    "Index",
    "Splits",
    "average_precision",
    "build",
    "collate",
    "detection_task",
    "open_index",
]
