"""The features of a vector as tokens that attend to each other."""

from engram import spaces
from engram.encoders.parts import Parts, number_parts
from engram.encoders.tokens import TokenEncoder
from engram.nn.attention import check_heads
from engram.ranges import OneOf
from engram.registry import register
from engram.specs import setting, spec
from engram.types import Key


@register("encoder", "features")
@spec
class FeaturesSpec:
    """One token for each number (category, symbol), self-attention among them, then attention pooling.

    Takes every space of at most 1024 numbers and categories. Numbers should be of order 1. A feature's token is its
    value times a learned direction plus a learned identity: Gorishniy et al. 2021 (arXiv 2106.11959), section 3.3, with
    attention pooling in place of their extra token.
    """

    token_width: int = setting(64, "length of a token", low=1, search=OneOf(32, 64, 128))
    layers: int = setting(1, "blocks of self-attention", low=0, search=OneOf(1, 2, 3))
    heads: int = setting(4, "attention heads; they must divide token_width", low=1)
    width: int = setting(128, "units of the layer after the pooling", low=1, search=OneOf(64, 128, 256))
    uniform: bool = setting(False, "control: all features weigh the same")

    def check(self) -> None:
        check_heads(self.heads, self.token_width, ("encoder.heads", "encoder.token_width"))

    def build(self, space: spaces.Space, stack: int, key: Key) -> TokenEncoder:
        return TokenEncoder(space, stack, self, key=key)

    def parts(self, space: spaces.Space, stack: int) -> Parts:
        """The numbers, categories and symbols of every frame."""
        return number_parts(space, stack, attended=True)
