"""What an argument may be, and the one sentence that says so where it is not.

Each check takes the field as its user wrote it, such as "SSP(bound=...)", and the value; it gives
the value back as Python has it (an int, a float, a bool, a str, a Path), or raises with the field,
the value and what would do. Scalars of NumPy and JAX count as numbers, and `True` as none. It
stands on the standard library alone: the controller and the policies use it, and the rest does too.

    >>> integer("SSP(bound=...)", 3, least=0)
    3
    >>> integer("SSP(bound=...)", -1, least=0)
    Traceback (most recent call last):
    ValueError: `SSP(bound=...)` must be non-negative, got -1.
    >>> flag("Ringmaster(stops=...)", "False")
    Traceback (most recent call last):
    TypeError: `Ringmaster(stops=...)` must be True or False, got 'False'.
"""

from jax_ssp.checks.numbers import (
    INT32,
    LARGEST,
    LEAST,
    MOST,
    MOST_STEPS,
    MOST_WORKERS,
    flag,
    integer,
    number,
    seed,
    share,
)
from jax_ssp.checks.objects import function, instance, optional, put, several
from jax_ssp.checks.strings import choice, path, text
from jax_ssp.checks.values import shown

__all__ = [
    "INT32",
    "LARGEST",
    "LEAST",
    "MOST",
    "MOST_STEPS",
    "MOST_WORKERS",
    "choice",
    "flag",
    "function",
    "instance",
    "integer",
    "number",
    "optional",
    "path",
    "put",
    "seed",
    "several",
    "share",
    "shown",
    "text",
]
