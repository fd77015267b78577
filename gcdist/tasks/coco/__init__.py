"""Object detection on COCO: data set, compact detector, torchvision's detectors, average precision."""

from gcdist.tasks.coco.dataset import BrokenImageError, CocoImages, collate
from gcdist.tasks.coco.detector import CompactDetector
from gcdist.tasks.coco.index import Index, open_index
from gcdist.tasks.coco.labels import Labels
from gcdist.tasks.coco.parse import AnnotationError
from gcdist.tasks.coco.scoring import HeldOut, average_precision, detections
from gcdist.tasks.coco.task import Splits, build, detection_task

__all__ = [
    "AnnotationError",
    "BrokenImageError",
    "CocoImages",
    "CompactDetector",
    "HeldOut",
    "Index",
    "Labels",
    "Splits",
    "average_precision",
    "build",
    "collate",
    "detection_task",
    "detections",
    "open_index",
]
