"""From row quantities to the unknown matrix: the tensor trick, the row loop, Kronecker-factored curvature."""
