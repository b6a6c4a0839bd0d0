"""A small set of combinations in which every pair of values of two options occurs."""

import random
from itertools import combinations, product


def covering_array(factors, is_legal=lambda combination: True, seed=0):
    """Return combinations {name: value} that together hold every pair of values that some legal combination holds.

    Greedy: each combination starts with a pair that is missing yet and takes, factor by factor, the value that brings
    most of the missing pairs; where no value is legal, it takes a step back.

    Args:
        factors: {name: values, hashable}.
        is_legal: tells of a combination, also of a part of one, whether it can be. What is illegal in a part stays so.
        seed: of the order in which factors are filled.
    """
    rng = random.Random(seed)
    missing = all_pairs(factors)
    rows = []
    for pair in sorted(missing, key=repr):
        if pair not in missing:
            continue
        if not is_legal(dict(pair)):
            missing.discard(pair)
            continue
        names = [name for name in factors if name not in dict(pair)]
        rng.shuffle(names)
        row = _complete(dict(pair), names, factors, missing, is_legal)
        missing.discard(pair)  # where nothing legal holds it
        if row is not None:
            missing -= pairs_of(row)
            rows.append({name: row[name] for name in factors})
    return rows


def all_pairs(factors):
    """Return every pair of values of two factors, {((name, value), (name, value)), ...}, names sorted."""
    return {
        ((a, first), (b, second))
        for a, b in combinations(sorted(factors), 2)
        for first, second in product(factors[a], factors[b])
    }


def pairs_of(combination):
    """Return the pairs that a combination holds."""
    return set(combinations(sorted(combination.items()), 2))


def _complete(row, names, factors, missing, is_legal):
    if not names:
        return row
    name, *rest = names

    def gain(value):
        one = name, value
        return sum(((one, other) if name < other[0] else (other, one)) in missing for other in row.items())

    for value in sorted(factors[name], key=gain, reverse=True):
        longer = {**row, name: value}
        if is_legal(longer):
            complete = _complete(longer, rest, factors, missing, is_legal)
            if complete is not None:
                return complete
    return None
