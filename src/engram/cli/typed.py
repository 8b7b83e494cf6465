"""How flags of the command line are read and told, for the commands of flags.py."""

from decimal import Decimal, InvalidOperation
from typing import Annotated, Any

from tyro.conf import UseAppendAction, arg
from tyro.constructors import PrimitiveConstructorSpec


def whole(low: int, metavar: str) -> PrimitiveConstructorSpec[int | None]:
    """How tyro reads an optional whole number of at least `low`; 1e6 and 1_000_000 are a million."""

    def read(words: list[str]) -> int:
        try:
            number = Decimal(words[0])  # exact, unlike float, for seeds of any size
        except InvalidOperation:
            number = Decimal("nan")
        if number.is_nan() or not low <= number < 2**63 or number != int(number):
            raise ValueError(f"{words[0]!r} was given; write a whole number, at least {low} and below 2^63")
        return int(number)

    def known(value: Any) -> bool:
        return value is None or isinstance(value, int)

    return PrimitiveConstructorSpec(1, metavar, read, is_instance=known, str_from_instance=lambda value: [str(value)])


def note(text: str) -> Any:
    """What stands behind the help of a flag."""
    return arg(help_behavior_hint=text)


Imports = Annotated[
    UseAppendAction[tuple[str, ...]],
    arg(
        name="import",
        metavar="MODULE",
        help="Python module (also one of this folder) with parts of your own.",
    ),
]
