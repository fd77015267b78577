"""A detector's labels for the category ids of annotations files, for any numbering of theirs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from gcdist.tasks.coco.parse import CATEGORIES_MOST
from gcdist.types import I64

SAME_MOST = 255  # ids up to 255 are labels themselves, as COCO's 1 to 90; larger ids would make a detector huge
log = logging.getLogger("gcdist.coco")


class Labels:
    """Labels 1 to ``classes - 1`` by category id; 0 is a detector's background.

    Ids of 1 to 255 are labels themselves, so that COCO's detectors have their 91 classes. If a file has any other id, labels
    are 1, 2, 3, ... in the order of the ids. A second file keeps the labels of the first; its new ids get the labels after
    them.

    >>> labels = Labels()
    >>> labels.add({0: "cat", 7: "dog"}, "train")
    >>> labels.of(np.array([7, 0])).tolist(), labels.category(1), labels.classes
    ([2, 1], 0, 3)
    """

    def __init__(self) -> None:
        self._label: dict[int, int] = {}
        self._category: dict[int, int] = {}
        self._names: dict[int, str] = {}
        self._given = ""  # the name of the first file

    @property
    def classes(self) -> int:
        """One more than the highest label, a detector's ``num_classes``; 91 for COCO."""
        return max(self._category) + 1

    def of(self, category_B: I64) -> I64:
        """Labels of category ids."""
        return np.array([self._label[i] for i in category_B.tolist()], np.int64)

    def has(self, label: int) -> bool:
        """Whether a category has this label: ten of COCO's 1 to 90 are free, 12 for example."""
        return label in self._category

    def category(self, label: int) -> int:
        """The category id of a label."""
        return self._category[label]

    def names(self) -> dict[int, str]:
        """The categories' names by label."""
        return {label: self._names[i] for i, label in self._label.items()}

    def add(self, categories: Mapping[int, str], where: str | Path) -> None:
        """Give labels to the categories of another file.

        Raises:
            ValueError: the file's ids have other meanings (a name has another id in an earlier file), or there are too
                many categories.
        """
        self._compare(categories, where)
        new = sorted(set(categories) - set(self._label))
        same = all(1 <= i <= SAME_MOST and i not in self._category for i in new)
        same &= all(i == label for i, label in self._label.items())
        free = max(self._category, default=0) + 1
        labels = new if same else range(free, free + len(new))
        for i, label in zip(new, labels, strict=True):
            self._label[i], self._category[label], self._names[i] = label, i, categories[i]
        if len(self._label) > CATEGORIES_MOST:
            raise ValueError(f"{where}: {len(self._label)} categories in all, allowed are {CATEGORIES_MOST}")
        self._given = self._given or str(where)

    def _compare(self, categories: Mapping[int, str], where: str | Path) -> None:
        id_of = {name: i for i, name in self._names.items()}
        for i, name in categories.items():
            before = self._names.get(i)
            if before == name:
                continue
            if name in id_of:
                raise ValueError(
                    f"{where}: {name!r} is category {i}, and category {id_of[name]} in {self._given}: the ids of all splits "
                    "must mean the same"
                )
            if before is not None:
                log.warning(
                    "%s: category %d is %r here and %r in %s; they count as one", where, i, name, before, self._given
                )
