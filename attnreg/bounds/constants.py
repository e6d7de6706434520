"""Dimension-free constants of one softmax row, in its logits s and in 2-norms, all proved and all attained.

For every number of coordinates and every s, with `f = softmax(s)` and derivatives as multilinear maps:

* `‖Df‖ ≤ 1/2`, `‖D²f‖ ≤ √6/9`, `‖D³f‖ ≤ 1/2`: the extreme second, third and fourth cumulants of a variable with
  values `v_i`, `‖v‖₂ = 1`, hence of range at most √2 (docs/theory/bounds.md, section 2);
* for `ℓ(s) = ‖f − b‖²` with b in the simplex: `‖∇ℓ‖ ≤ 16√2/27`; the eigenvalues of `∇²ℓ` lie in
  `[ROW_CURVATURE_MIN, ROW_CURVATURE_MAX]`; `‖D³ℓ‖ ≤ ROW_THIRD` (docs/theory/row_hessian.md).

All three suprema of ℓ are reached on two-point supports, `f = (t, 1−t)`, `b = (0, 1)`, `ℓ = 2t²`. Along the unit
direction `v = (1, −1)/√2` the derivative is `D = √2 t(1−t) d/dt`, which gives the three functions of t below.

>>> round(ROW_CURVATURE_MIN, 4), round(ROW_CURVATURE_MAX, 4), round(ROW_THIRD, 4)
(-0.4808, 0.6162, 1.1428)
"""

import math

JACOBIAN = 1.0 / 2.0
SECOND_DERIVATIVE = math.sqrt(6.0) / 9.0
THIRD_DERIVATIVE = 1.0 / 2.0


ROW_GRADIENT = 16.0 * math.sqrt(2.0) / 27.0  # of Dℓ = 4√2 t²(1−t), at t = 2/3
ROW_CURVATURE_MAX = (39.0 + 55.0 * math.sqrt(33.0)) / 576.0  # of D²ℓ = 8t²(1−t)(2−3t), at t = (15 − √33)/24
ROW_CURVATURE_MIN = (39.0 - 55.0 * math.sqrt(33.0)) / 576.0  # at t = (15 + √33)/24
THIRD_AT = 0.6362642907009750  # the middle root of 60t³ − 108t² + 57t − 8
ROW_THIRD = -(
    8.0 * math.sqrt(2.0) * THIRD_AT * THIRD_AT * (1.0 - THIRD_AT) * (4.0 - 15.0 * THIRD_AT + 12.0 * THIRD_AT * THIRD_AT)
)  # of D³ℓ = 8√2 t²(1−t)(4−15t+12t²), at t = THIRD_AT

# ∇²‖u − αb‖² ⪰ RESCALED_CURVATURE_MIN · α² for b in the simplex (docs/theory/bounds.md, section 5).
RESCALED_CURVATURE_MIN = -4.0 / 27.0

# The diagonal part 2ŵ of ∇²‖f − b‖² (arXiv 2304.10411 keeps nothing else): its least and largest entry over all f and
# simplex targets. The least is 2a(5a − 2 − 2a²) at a = (5 − √13)/6 (docs/theory/bounds.md, section 6).
DIAGONAL_AT = (5.0 - math.sqrt(13.0)) / 6.0
DIAGONAL_MIN = 2.0 * DIAGONAL_AT * (5.0 * DIAGONAL_AT - 2.0 - 2.0 * DIAGONAL_AT * DIAGONAL_AT)
DIAGONAL_MAX = 2.0

# The papers' constants that the two convexity thresholds replace (arXiv 2304.10411: w² ≥ 4 + l/σ_min²).
PUBLISHED_CONVEXITY = 4.0
# The weight from which `w²` alone is within a tenth of `H + w²`, as published.
PUBLISHED_TENTH = 100.0
