"""The array covers every pair that can be, and holds nothing that cannot."""

from itertools import product

from covering_array import all_pairs, covering_array, pairs_of
from hypothesis import given, settings
from hypothesis import strategies as st


@st.composite
def problems(draw):
    """Draw factors and some partial combinations that are not allowed."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=2, max_size=5))
    factors = {f"f{number}": tuple(range(size)) for number, size in enumerate(sizes)}
    item = st.sampled_from([(name, value) for name, values in factors.items() for value in values])
    forbidden = draw(st.lists(st.sets(item, min_size=2, max_size=3), max_size=6))
    return factors, forbidden


@settings(max_examples=200)
@given(problems())
def test_every_pair_of_a_legal_combination_is_covered_and_every_combination_is_legal(problem):
    factors, forbidden = problem

    def is_legal(combination):
        return not any(items <= set(combination.items()) for items in forbidden)

    rows = covering_array(factors, is_legal)
    assert all(row.keys() == factors.keys() and is_legal(row) for row in rows)
    whole = [dict(zip(factors, values, strict=True)) for values in product(*factors.values())]
    possible = set().union(*(pairs_of(combination) for combination in whole if is_legal(combination)))
    assert set().union(*map(pairs_of, rows)) == possible


def test_it_is_much_smaller_than_all_combinations_and_always_the_same():
    factors = {f"f{number}": (0, 1, 2) for number in range(12)}
    rows = covering_array(factors)
    assert len(rows) <= 25 and rows == covering_array(factors)
    assert set().union(*map(pairs_of, rows)) == all_pairs(factors)
