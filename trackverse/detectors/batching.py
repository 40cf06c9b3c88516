"""As many frames at once as fit into memory, found by trying."""

from __future__ import annotations

import gc
import logging
import sys

from trackverse.detectors.protocol import Detector
from trackverse.errors import SetupError
from trackverse.types import Detections, UInt8

log = logging.getLogger(__name__)


class FittingBatches:
    """A detector that is given at most `batch_size` frames at a time, and fewer once that was too much.

    What fits is found by bisection between the largest batch that did and the smallest that did not, so that it ends
    after a few tries; a batch that did not fit is done again in smaller ones.
    """

    def __init__(self, detector: Detector, batch_size: int) -> None:
        self._detector = detector
        self._batch_size = batch_size
        self._smallest_misfit: int | None = None
        self._largest_fit = 0
        self.name, self.labels = detector.name, detector.labels
        self.embedding_dim = detector.embedding_dim

    def __call__(self, images: UInt8) -> list[Detections]:
        """As the detector's own; raises SetupError if not even one frame fits."""
        found: list[Detections] = []
        while len(found) < len(images):
            batch = images[len(found) : len(found) + self._next_size()]
            try:
                found += self._detector(batch)
            except (RuntimeError, MemoryError) as error:
                if not _is_out_of_memory(error):
                    raise
                self._shrink(len(batch), error)
                is_too_large = True
            else:
                self._largest_fit = max(self._largest_fit, len(batch))
                is_too_large = False
            if is_too_large:  # out here, because an error being handled keeps the tensors of its frames alive
                _free_memory()
        return found

    def _next_size(self) -> int:
        if self._smallest_misfit is None:
            return self._batch_size
        return max((self._largest_fit + self._smallest_misfit) // 2, 1)

    def _shrink(self, size: int, error: Exception) -> None:
        if size == 1:
            raise SetupError(
                f"out of memory with a single frame ({error}): choose a smaller --frame_size or another --device"
            ) from error
        self._smallest_misfit = size
        if self._largest_fit >= size:  # it did fit once: another process has taken memory since
            self._largest_fit = size // 2
        log.info("%d frames at once don't fit into memory, going on with %d", size, self._next_size())


def _is_out_of_memory(error: Exception) -> bool:
    """torch's OutOfMemoryError is told by its name, since torch may not be there; its CPU allocator has no own type."""
    words = ("out of memory", "can't allocate memory")
    return isinstance(error, MemoryError) or any(word in str(error).lower() for word in words)


def _free_memory() -> None:
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
