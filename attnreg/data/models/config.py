"""The numbers of a transformer that the forward pass needs: one frozen, hashable record for every family."""

from dataclasses import dataclass

from attnreg.problems.checks import ProblemError, check_choice, check_flag, check_integer, check_number

NORMS = ("layer", "rms")
LAYOUTS = ("half", "interleaved")
ACTIVATIONS = ("gelu", "gelu_tanh", "relu", "silu")


@dataclass(frozen=True)
class ModelConfig:
    """What a model is, beside its weights; static under `jit`.

    Attributes:
        family: the name in `attnreg.data.models.families`.
        layers, width: how many, and the columns of a hidden state.
        heads, groups, head_width: query heads, key and value heads (head h reads group `h // (heads // groups)`), and
            the columns of one.
        mlp_width, vocabulary, longest: hidden units, tokens known, and the most tokens of a text.
        norm: "layer" (mean off, bias) or "rms" (neither).
        epsilon: what the norm adds to the variance.
        norm_first: True where a block is `H + f(norm(H))` (GPT-2, Llama), False for `norm(H + f(H))` (BERT).
        causal: token i attends tokens ≤ i.
        activation: of the MLP: "gelu" (exact), "gelu_tanh", "relu", "silu".
        scale: what the logits q·k are multiplied by.
        window: None, or the most tokens that one token sees; longer texts are refused.
        rotary_frequencies: the angle a position adds, one for each pair of columns; empty without rotary positions.
        rotary_base: the base that they came from, before any scaling; None without.
        rotary_layout: "half" pairs column i with i + width/2, "interleaved" 2i with 2i + 1.
    """

    family: str
    layers: int
    width: int
    heads: int
    groups: int
    head_width: int
    mlp_width: int
    vocabulary: int
    longest: int
    norm: str
    epsilon: float
    norm_first: bool
    causal: bool
    activation: str
    scale: float
    window: int | None = None
    rotary_frequencies: tuple[float, ...] = ()
    rotary_base: float | None = None
    rotary_layout: str = "half"

    def __post_init__(self) -> None:
        sizes = ("layers", "width", "heads", "groups", "head_width", "mlp_width", "vocabulary", "longest")
        for name in sizes:
            check_integer(name, getattr(self, name), at_least=1)
        if self.heads % self.groups:
            raise ProblemError(f"groups is {self.groups}; {self.heads} query heads must be a multiple of it")
        check_choice("norm", self.norm, NORMS)
        check_choice("activation", self.activation, ACTIVATIONS)
        check_choice("rotary_layout", self.rotary_layout, LAYOUTS)
        check_number("epsilon", self.epsilon, above=0)
        check_number("scale", self.scale, above=0)
        for name in ("norm_first", "causal"):
            check_flag(name, getattr(self, name))
        if self.window is not None:
            check_integer("window", self.window, at_least=1)
        if self.rotary_width > self.head_width:
            raise ProblemError(f"rotary_frequencies rotate {self.rotary_width} columns; a head has {self.head_width}")

    @property
    def rotary_width(self) -> int:
        """How many columns of a head, the first ones, are rotated: two for each frequency."""
        return 2 * len(self.rotary_frequencies)

    @property
    def shared(self) -> int:
        """How many query heads share one key head."""
        return self.heads // self.groups
