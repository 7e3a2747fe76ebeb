"""All explanations of the forecasts of one model on one signal, and what speaks for each of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import xarray as xr

from laglens.attribution.explanations import explanations
from laglens.attribution.faithfulness import SHARES, faithfulness
from laglens.attribution.norms import value_weighted_attention
from laglens.attribution.replacement import KINDS, replace_attention
from laglens.attribution.truth import score_truth
from laglens.errors import LaglensError
from laglens.flow.lags import rollout_lags
from laglens.flow.relevance import gradient_relevance
from laglens.lags.alike import stack_dataset
from laglens.models.forecaster import Forecaster

logger = logging.getLogger("laglens")
MEMORY = 2e9  # bytes of weights that are held at once, beside the model


def compare_explanations(
    model: Forecaster,
    attribution: xr.Dataset,
    time_tree: xr.DataTree,
    flow: xr.Dataset | None,
    *,
    shares: Sequence[float] = SHARES,
    relevance: bool = True,
    replacements: Sequence[str] = KINDS,
    draws: int = 3,
    by_head: str | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> xr.DataTree:
    """Put everything that claims to say where the forecast comes from beside each other, and test it.

    Parameters
    ----------
    attribution
        From `laglens.attribution.forecast.attribute_forecast`.
    time_tree, flow
        Time maps of the same windows, and what `laglens.flow` makes of them.
    shares, relevance, replacements, draws, by_head
        See `faithfulness`, `gradient_relevance` and `replace_attention`; empty or False: not done.

    Returns
    -------
    xr.DataTree
        ``explanations``, ``truth``, and where they can be had ``relevance`` with its lags, ``faithfulness`` and
        ``replaced``; the attribute ``left_out`` names the others, each with the reason.

    Raises
    ------
    LaglensError
        The windows are not the same.
    """
    windows, size = time_tree.to_dataset(inherit=False), _bytes_of_weights(model, time_tree)
    left_out: dict[str, str] = {}
    of_windows: dict[str, Any] = {"batch": max(1, min(8, int(MEMORY / size))), "device": device}
    step = None if attribution.attrs["step"] == "mean" else int(attribution.attrs["step"])
    several = "the model takes several channels together" if getattr(model, "channels", 1) > 1 else None
    large = f"the weights of one window take {size / 1e9:.1f} GB" if size > MEMORY else None
    n = windows.sizes["sample"]
    together = f"the weights of all windows take {n * size / 1e9:.1f} GB" if n * size > MEMORY else None

    def tried(name: str, make: Callable[[], Any], *reasons: str | None) -> Any:
        """What can be had of this model; else the reason is kept."""
        reason = next(filter(None, (several, *reasons)), None)
        if reason is None:
            try:
                return make()
            except LaglensError as error:  # such as a layer that cannot be followed
                reason = str(error)
        left_out[name] = reason
        logger.info("%s left out: %s", name, reason)
        return None

    nodes: dict[str, xr.Dataset | None] = {}
    if relevance:
        flat = None if getattr(model, "differentiable", True) else "the forecast has no gradient"
        nodes["/relevance"] = tried("relevance", lambda: _relevance(model, windows, step, of_windows), flat, large)
    weighted = tried("value_weighted", lambda: value_weighted_attention(model, windows, **of_windows), large)
    norms = tried("norms", lambda: value_weighted_attention(model, windows, projected=True, **of_windows), large)
    explained = explanations(attribution, time_tree, flow, nodes.get("/relevance"), weighted, norms)
    nodes["/explanations"] = explained
    nodes["/truth"] = score_truth(explained, windows.attrs.get("signal", {}).get("truth", {}))
    if shares:
        options: dict[str, Any] = {"shares": shares, "seed": seed, "device": device}
        nodes["/faithfulness"] = tried("faithfulness", lambda: faithfulness(model, windows, explained, **options))
    if replacements:
        chosen: dict[str, Any] = {"kinds": replacements, "draws": draws, "by_head": by_head, "seed": seed}
        run = partial(replace_attention, model, windows, device=device, **chosen)
        nodes["/replaced"] = tried("replaced", run, together)
    made = {name: node for name, node in nodes.items() if node is not None}
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs=attribution.attrs | {"left_out": left_out}), **made})


def _relevance(model: Forecaster, windows: xr.Dataset, step: int | None, options: dict[str, Any]) -> xr.Dataset:
    """Gradient relevance with its lags."""
    found = gradient_relevance(model, windows, step=step, **options)
    return found.assign(rollout_lags(found).variables)


def _bytes_of_weights(model: Forecaster, time_tree: xr.DataTree) -> float:
    """Bytes of the attention weights of one window, in all layers and heads of the stacks, in float32."""
    heads = {name: stack_dataset(time_tree, name).sizes["head"] for name in time_tree.children}
    sizes = [len(stack.layers) * heads.get(stack.name, 1) * len(stack.query) * len(stack.key) for stack in model.stacks]
    return 4.0 * sum(sizes)
