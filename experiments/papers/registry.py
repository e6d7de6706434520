"""All rows in the order of docs/papers.md, and the statements that must have one."""

from attnreg.bounds import BOUNDS
from attnreg.bounds.elementwise import ELEMENTWISE
from attnreg.bounds.joint_tokens import TOKEN_BOUNDS
from attnreg.bounds.statements import STATEMENTS
from experiments.papers.bounds import LAYER, OTHERS
from experiments.papers.context import CLOSENESS, NUMBERS
from experiments.papers.greedy import GREEDY
from experiments.papers.softmax import ATTENTION, RESCALED, SOFTMAX

CHAPTERS = (CLOSENESS, SOFTMAX, RESCALED, ATTENTION, GREEDY, LAYER, OTHERS, NUMBERS)
REGISTERED = (
    *STATEMENTS,
    *BOUNDS,
    *(f"elementwise.{name}" for name in ELEMENTWISE),
    *(f"tokens.{name}" for name in TOKEN_BOUNDS),
)
