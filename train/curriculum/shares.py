"""Exact shares of the domains: groups opened, weights divided by their sum, sizes tempered.

Everything is a Fraction of the decimal that was typed, so that a recipe gives the same run on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Context, Decimal
from fractions import Fraction

Groups = Mapping[str, Mapping[str, float]]

# Decimal's exp and ln are correctly rounded, which no library promises of a float's power.
DECIMAL = Context(prec=40)


def exact(number: float) -> Fraction:
    """The number as it was typed: 0.1 is one tenth."""
    return Fraction(repr(number))


def normalised(shares: Mapping[str, float]) -> dict[str, Fraction]:
    """Shares that sum to 1, in the proportions given. Some share is above 0."""
    total = sum(exact(share) for share in shares.values())
    return {name: exact(share) / total for name, share in shares.items()}


def open_groups(shares: Mapping[str, float], groups: Groups) -> dict[str, Fraction]:
    """The share of each domain, where a name may also be a group's, and a group may hold groups.

    Shares multiply on the way into a group, and add up where two ways lead to one domain.
    """
    domains: dict[str, Fraction] = {}
    for name, share in normalised(shares).items():
        inside = open_groups(groups[name], groups) if name in groups else {name: Fraction(1)}
        for domain, part in inside.items():
            domains[domain] = domains.get(domain, Fraction(0)) + share * part
    return domains


def way_back(name: str, groups: Groups, way: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The names on a way from `name` through groups to a group that is on it already; empty if there is none."""
    if name in way:
        return (*way, name)
    ways = (way_back(inner, groups, (*way, name)) for inner in groups.get(name, ()))
    return next(filter(None, ways), ())


def tempered(tokens: Mapping[str, int], temperature: float) -> dict[str, Fraction]:
    """Shares in proportion to tokens ** (1 / temperature): 1 is by size, infinity is even. All tokens are above 0."""
    logs = {
        domain: DECIMAL.divide(DECIMAL.ln(Decimal(count)), Decimal(temperature)) for domain, count in tokens.items()
    }
    largest = max(logs.values())
    sizes = {domain: Fraction(DECIMAL.exp(DECIMAL.subtract(log, largest))) for domain, log in logs.items()}
    return {domain: size / sum(sizes.values()) for domain, size in sizes.items()}
