"""The columns of a person's table: their names, and which of them can be series."""

from __future__ import annotations

import re

import pandas as pd

from laglens.config.messages import nearest
from laglens.config.signals import EVERY, OwnTable
from laglens.errors import LaglensError

NAMELESS = re.compile(r"Unnamed: \d+")  # what pandas calls a column without a header, such as an index it wrote


def plain(spec: OwnTable, table: pd.DataFrame, name: str) -> tuple[pd.DataFrame, list[str]]:
    """Make names of columns texts and named indices columns, as in a CSV file; also return what the indices were.

    Raises
    ------
    LaglensError
        Columns have names of several levels, or two have the same name.
    """
    if table.columns.nlevels > 1:
        raise LaglensError(
            f"signal '{name}': the columns of '{spec.file}' have names of {table.columns.nlevels} levels; give each "
            "one name (pandas: df.columns = ['_'.join(map(str, c)) for c in df.columns])"
        )
    table = table.set_axis([str(column) for column in table.columns], axis="columns")
    levels = [level for level in table.index.names if level is not None and str(level) not in table.columns]
    if levels:
        table = table.reset_index(level=levels).rename(columns={level: str(level) for level in levels})
    doubled = table.columns[table.columns.duplicated()]
    if len(doubled):
        raise LaglensError(f"signal '{name}': '{spec.file}' has two columns '{doubled[0]}'; rename one")
    return table, [str(level) for level in levels]


def value_columns(spec: OwnTable, table: pd.DataFrame, index: list[str], name: str) -> tuple[list[str], list[str]]:
    """Return the value columns asked for, every numeric one, or the only one; and numeric ones that ``"*"`` leaves out.

    Columns of true and false, and an index of pandas, are series only where they are named.

    Raises
    ------
    LaglensError
        A column is missing, holds dates or durations, or none or several could be meant.
    """
    wanted = spec.value_columns
    for column in [*wanted, *(column for column in (spec.time, spec.series) if column)]:
        if column not in table.columns:
            raise LaglensError(
                f"signal '{name}': '{spec.file}' has no column '{column}'; {nearest(column, list(table.columns))}"
            )
    for column in wanted:
        kind = table[column].dtype
        if kind.kind in "mM" or isinstance(kind, pd.PeriodDtype):
            what = "durations" if kind.kind == "m" else "dates"
            raise LaglensError(
                f"signal '{name}', column '{column}': it holds {what} ({kind}), not numbers; take a column of numbers"
                + (", or convert it (pandas: .dt.total_seconds())" if kind.kind == "m" else f", or 'time: {column}'")
            )
    if wanted:
        return wanted, []
    found = [c for c in table.columns if pd.api.types.is_numeric_dtype(table[c]) and c not in (spec.time, spec.series)]
    left_out = [c for c in found if c in index or NAMELESS.fullmatch(c) or pd.api.types.is_bool_dtype(table[c])]
    numeric = [c for c in found if c not in left_out]
    if numeric and (spec.column == EVERY or len(numeric) == 1):
        return numeric, left_out
    if spec.column == EVERY:
        raise LaglensError(f"signal '{name}': '{spec.file}' has no numeric column")
    named = ", ".join(numeric) or "none"
    raise LaglensError(f"signal '{name}': name the 'column' to take from '{spec.file}'; numeric columns: {named}")
