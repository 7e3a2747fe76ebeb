"""Comb contrast: how far a head prefers the multiples of a period to the lags between them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from laglens.errors import LaglensError
from laglens.lags.testability import REFUSED, testability

Array = NDArray[np.float64]
FEWEST = 3  # past lags in which a tooth and its gaps can lie
GUARDS = {"P/2": 0.5, "2P": 2.0, "1.618 P": (1 + 5**0.5) / 2}  # the last has its teeth farthest from those of P
TOO_FEW = "{} past lags are measured; a comb needs a tooth and two gaps"


def comb_weights(lag: Array, period: float, teeth: NDArray[np.int64] | None = None) -> Array:
    r"""Weights over lags whose product with a log profile is the comb contrast, ``(lag,)``, summing to 0.

    .. math:: C(P) = \frac{1}{K} \sum_{k=1}^{K} L(kP) - \tfrac{1}{2} [L((k - \tfrac12) P) + L((k + \tfrac12) P)]

    with :math:`L` the log of 1 + the ratio to uniform, linear between lags. The two gaps beside a tooth have its mean
    lag, so a straight trend of L cancels. A tooth counts when both its gaps lie within the axis.

    Parameters
    ----------
    lag
        Rising and evenly spaced [input samples], all positive.
    period
        [input samples].
    teeth
        The multiples k, if not all that count.

    Raises
    ------
    LaglensError
        No tooth of the comb has both its gaps on the axis.
    """
    teeth = comb_teeth(lag, period) if teeth is None else teeth
    if not len(teeth):
        raise LaglensError(
            f"no multiple of the period {period:.4g} lies between two gaps on the lags {lag[0]:g} to {lag[-1]:g}; "
            "give the model a longer history, or ask for a shorter period"
        )
    pairs = [_at(lag, k * period) - (_at(lag, (k - 0.5) * period) + _at(lag, (k + 0.5) * period)) / 2 for k in teeth]
    return np.mean(pairs, axis=0)


def comb_teeth(lag: Array, period: float) -> NDArray[np.int64]:
    """Multiples of the period whose gaps on both sides lie within the axis, ``(tooth,)``."""
    teeth = np.arange(1, int(lag[-1] / period) + 1)
    return teeth[((teeth - 0.5) * period >= lag[0]) & ((teeth + 0.5) * period <= lag[-1])]


def _at(lag: Array, where: float) -> Array:
    """Weights of linear interpolation at one place, ``(lag,)``."""
    position = (where - lag[0]) / (lag[1] - lag[0])
    return np.clip(1 - np.abs(np.arange(len(lag)) - position), 0, None)


def comb_contrast(ratio: xr.DataArray, periods: Sequence[float], *, step: float | None = None) -> xr.DataArray:
    """Mean log(1 + ratio) on the multiples of each period minus that on the lags halfway between them.

    (..., lag) -> (..., period), natural log. Past lags only.

    Parameters
    ----------
    ratio
        Ratio to uniform attention, as from `laglens.lags.profiles.lag_ratio`; ``lag`` in input samples. Lags that are
        not measured are NaN in every profile.
    periods
        [input samples].
    step
        Input samples per token; default: the distance of neighbouring lags.

    Raises
    ------
    LaglensError
        A period is under 2 tokens, where teeth and gaps are the same lags, or reaches beyond the lags.

    See Also
    --------
    comb_guards : the same at half, double and 1.618 times the period.
    """
    lag = ratio["lag"].values
    measured = (lag > 0) & np.isfinite(ratio.values).reshape(-1, len(lag)).all(0)
    axis = lag[measured]
    if len(periods) and len(axis) < FEWEST:
        raise LaglensError(TOO_FEW.format(len(axis)))
    step = float(axis[1] - axis[0]) if step is None and len(axis) > 1 else step or 1.0
    for period in periods:
        if (judged := testability(period, step)).testable == "no":
            raise LaglensError(f"{judged}; teeth and gaps of its comb are the same lags below {REFUSED:g} tokens")
    weights = np.stack([comb_weights(axis, period) for period in periods]) if len(periods) else np.empty((0, len(axis)))
    contrast = log_ratio(ratio.transpose(..., "lag").values[..., measured]) @ weights.T
    leading = [dim for dim in ratio.dims if dim != "lag"]
    coords = {name: coord for name, coord in ratio.coords.items() if set(coord.dims) <= set(leading)}
    coords["period"] = xr.Variable("period", np.asarray(periods, float), {"units": "input samples"})
    attrs = {"long_name": "comb contrast", "units": "log(1 + ratio)"}
    return xr.DataArray(contrast, dims=(*leading, "period"), coords=coords, name="contrast", attrs=attrs)


def comb_guards(ratio: xr.DataArray, period: float, *, step: float | None = None) -> dict[str, xr.DataArray]:
    """Comb contrast at the period, and at P/2, 2P and 1.618 P: (..., lag) -> ``{name: (...)}``.

    A head that follows P shows it at P; at P/2 the teeth are teeth and gaps of P in turn, at 1.618 P neither. Those
    that the lags cannot show are left out.
    """
    found = {}
    for name, factor in ({"P": 1.0} | GUARDS).items():
        try:
            found[name] = comb_contrast(ratio, [factor * period], step=step).isel(period=0, drop=True)
        except LaglensError:
            if name == "P":
                raise
    return found


def log_ratio(ratio: NDArray) -> Array:
    """Natural log of 1 + ratio to uniform: weights far under uniform are all alike, however far.

    The plain log would see mostly those: a sharp head has them everywhere but at one lag, rippled by its position code
    over several powers of ten.
    """
    return np.log1p(np.asarray(ratio, np.float64))
