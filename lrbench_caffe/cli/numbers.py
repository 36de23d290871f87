"""The numbers that options take, with messages that name what is expected."""

from __future__ import annotations

import math
from typing import Any

import click


class WholeNumber(click.IntRange):
    """A whole number in a range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number of an option; a text that is not a whole number is an error."""
        try:
            int(value)
        except ValueError:
            self.fail("expected a whole number in digits, not %r" % value, param, ctx)
        number: int = super().convert(value, param, ctx)
        return number


class Number(click.FloatRange):
    """A number in a range."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number of an option; a text that is not a number is an error."""
        if math.isnan(_float(value)):
            self.fail("expected a number, not %r" % value, param, ctx)
        number: float = super().convert(value, param, ctx)
        return number


class Share(click.FloatRange):
    """A share, from 0 to 1."""

    def __init__(self, example: float) -> None:
        super().__init__(0, 1)
        self._example = example

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the share of an option; any other number, such as a percentage, is an error."""
        number = _float(value)
        if not 0 <= number <= 1:
            expected = "expected a share of 1, for example %g, not %r"
            self.fail(expected % (self._example, value), param, ctx)
        return number


def _float(value: Any) -> float:
    """The number of a text, NaN if there is none."""
    try:
        return float(value)
    except ValueError:
        return math.nan
