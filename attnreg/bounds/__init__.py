"""Lipschitz and convexity bounds of attention regression, as objects that can be evaluated, measured and violated."""

from attnreg.bounds.domain import Norms, Point, softmax_point
from attnreg.bounds.registry import BOUNDS, Bound, published_shift

__all__ = ["BOUNDS", "Bound", "Norms", "Point", "published_shift", "softmax_point"]
