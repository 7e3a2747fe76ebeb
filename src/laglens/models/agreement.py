"""Whether a model that was loaded is the one for which the workflow was planned."""

from __future__ import annotations

from laglens.errors import LaglensError
from laglens.models.forecaster import Forecaster


def check_horizon(model: Forecaster, written: int | None, name: str) -> None:
    """Raise where a model does not forecast and the config does not say so.

    Which jobs a model has is decided before it is loaded, and without a forecast there is nothing to attribute.

    Parameters
    ----------
    model
        As it was loaded.
    written
        ``horizon`` in the config; None: that of the model.
    name
        Of the model in the config.

    Raises
    ------
    LaglensError
        The model has horizon 0, and `written` is another one.
    """
    if model.horizon == 0 and written != 0:
        raise LaglensError(
            f"models.{name}.horizon: this model does not forecast, its horizon is 0: write 'horizon: 0', for its jobs "
            "are planned before it is loaded"
        )
