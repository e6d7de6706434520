"""In-context learning laboratory: documents, self-attention learners, gradient-descent learners, constructions.

`tasks` draws documents, `tokens` lays them out, `models` is the family of self-attention learners, `descent` the
algorithms they are compared with, `tuning` chooses the step sizes of those, `constructions` writes weights that make a
model equal to an algorithm, `training` trains many runs in one program, `metrics` compares, `kernels` explains.
"""
