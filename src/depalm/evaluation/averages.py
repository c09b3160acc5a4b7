"""Averages over the columns of a table, as the paper defines them."""

import pandas as pd


def average_score(means: pd.DataFrame) -> pd.Series:
    """Mean over the columns of 100 x value / best value of the column; a missing value counts 0.

    `means` is [rows, columns]; a column without any value is left out (docs/methods.md#table-rule).
    """
    known = means.dropna(axis="columns", how="all")
    return (100 * known / known.max()).fillna(0).mean(axis="columns")


def average_rank(means: pd.DataFrame) -> pd.Series:
    """Mean over the columns of the competition rank; a missing value ranks last, as row n of n.

    `means` is [rows, columns]; a column without any value is left out (docs/methods.md#table-rule).
    """
    known = means.dropna(axis="columns", how="all")
    return known.rank(ascending=False, method="min").fillna(len(known)).mean(axis="columns")
