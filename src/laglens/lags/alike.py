"""Whether two time trees may be compared: the same model, layers, heads and tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import xarray as xr

from laglens.errors import LaglensError

NODE_ATTRS = ("samples_per_token", "normalisation", "causal")
TOKEN_COORDS = [f"{axis}_{what}" for axis in ("query", "key") for what in ("time", "start", "end", "part", "readout")]

Difference = tuple[str, object, object]


def stack_dataset(tree: xr.DataTree, name: str) -> xr.Dataset:
    """One attention stack of a tree, without what it inherits from the root."""
    return tree.children[name].to_dataset(inherit=False)


def require_alike(first: xr.DataTree, second: xr.DataTree, names: tuple[str, str]) -> None:
    """Raise where two time trees do not come from the same model, layers, heads and tokens.

    Raises
    ------
    LaglensError
        Names what differs, with both values.
    """
    for what, ours, theirs in _compared(first, second):
        if not _same(ours, theirs):
            raise LaglensError(f"{what} differs: {_short(ours)} in {names[0]}, {_short(theirs)} in {names[1]}")


def _compared(first: xr.DataTree, second: xr.DataTree) -> Iterator[Difference]:
    for key in ("history", "horizon"):
        yield f"'{key}'", first.attrs.get(key), second.attrs.get(key)
    ours, theirs = first.attrs.get("model"), second.attrs.get("model")
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        for key in sorted({*ours, *theirs}):
            yield f"model '{key}'", ours.get(key), theirs.get(key)
    yield "list of attention stacks", sorted(first.children), sorted(second.children)
    for name in first.children:
        yield from _compared_stacks(name, stack_dataset(first, name), stack_dataset(second, name))


def _compared_stacks(name: str, first: xr.Dataset, second: xr.Dataset) -> Iterator[Difference]:
    for key in NODE_ATTRS:
        yield f"stack '{name}': {key}", first.attrs.get(key), second.attrs.get(key)
    for coord in ("layer", "head", *TOKEN_COORDS):
        yield f"stack '{name}': {coord}", first[coord].values, second[coord].values


def _same(ours: object, theirs: object) -> bool:
    if isinstance(ours, np.ndarray) or isinstance(theirs, np.ndarray):
        return np.array_equal(np.asarray(ours), np.asarray(theirs))
    return bool(ours == theirs)


def _short(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{len(value)} values from {value.ravel()[0]:g} to {value.ravel()[-1]:g}" if value.size else "no values"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
