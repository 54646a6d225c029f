"""Einstein sums of one or two operands as permutations and a matrix product."""

from __future__ import annotations

from dataclasses import dataclass

Dims = tuple[int, ...]


@dataclass(frozen=True)
class MatrixProduct:
    """``first`` and ``second`` permute the operands to (..., rows, K) and (..., K, columns), ``result`` the product."""

    first: Dims
    second: Dims
    result: Dims


def as_permutation(equation: str) -> Dims | None:
    """The permutation that an equation of one operand is; None if it is none."""
    terms, _, output = equation.replace(" ", "").partition("->")
    if sorted(terms) != sorted(output) or len(set(terms)) != len(terms) or not terms.isalpha():
        return None
    return tuple(terms.index(label) for label in output)


def as_matrix_product(equation: str) -> MatrixProduct | None:
    """The product that an equation of two operands is, with one dimension that is summed over; None if it is none: with
    several such, or repeated labels, or dimensions that would have to be merged."""
    terms, arrow, output = equation.replace(" ", "").partition("->")
    first, comma, second = terms.partition(",")
    if not arrow or not comma or not (first + second + output).isalpha():
        return None
    if any(len(set(labels)) != len(labels) for labels in (first, second, output)):
        return None
    summed = [label for label in first if label in second and label not in output]
    shared = [label for label in first if label in second and label in output]
    rows = [label for label in first if label not in second]
    columns = [label for label in second if label not in first]
    if len(summed) != 1 or len(columns) != 1 or set(output) != {*shared, *rows, *columns}:
        return None
    if not rows or (len(rows) > 1 and shared):
        return None
    product = [*shared, *rows, *columns]
    return MatrixProduct(
        tuple(first.index(label) for label in [*shared, *rows, *summed]),
        tuple(second.index(label) for label in [*shared, *summed, *columns]),
        tuple(product.index(label) for label in output),
    )
