"""Numbers that are not finite would become objects that are not there, or hide those that are: they stop the work."""

from __future__ import annotations

from torch import Tensor


class NotFiniteError(ArithmeticError):
    """The network's numbers are not finite: its weights, or its input, must be damaged."""


def finite(values: Tensor) -> Tensor:
    """The values as they are. Raises NotFiniteError if one is infinite or no number."""
    if not values.sum().isfinite():  # a sum is not if one of them isn't, and takes a thirtieth of asking each
        raise NotFiniteError
    return values
