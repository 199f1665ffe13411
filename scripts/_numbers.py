"""The numbers that commands take, and what they are in words."""

import math
from typing import TYPE_CHECKING, Any

from jsonargparse.typing import restricted_number_type

LARGEST = 2**63
"""Whole numbers are less: torch has 64 bits for them."""

if TYPE_CHECKING:  # made at run time: a type checker can't see what they are
    Finite = NonNegativeFloat = PositiveFloat = float
    NonNegativeInt = PositiveInt = Seed = int
else:
    from jsonargparse.typing import NonNegativeFloat

    PositiveInt = restricted_number_type("PositiveInt64", int, [(">", 0), ("<", LARGEST)])
    NonNegativeInt = restricted_number_type("NonNegativeInt64", int, [(">=", 0), ("<", LARGEST)])
    Seed = restricted_number_type("Seed", int, [(">=", 0), ("<", 2**32)])
    Finite = restricted_number_type("Finite", float, [(">", -math.inf), ("<", math.inf)])
    PositiveFloat = restricted_number_type("PositiveFinite", float, [(">", 0), ("<", math.inf)])

WORDS: dict[Any, str] = {
    PositiveInt: "a whole number of at least 1",
    NonNegativeInt: "a whole number of at least 0",
    Seed: "a whole number from 0 to 4,294,967,295",
    PositiveFloat: "a finite number above 0",
    NonNegativeFloat: "a number of at least 0",
    Finite: "a finite number",
    int: "a whole number",
    float: "a number",
}
"""Each in words."""
