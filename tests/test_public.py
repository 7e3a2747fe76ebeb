"""The public names exist, load lazily, and work together in a notebook."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np

import laglens

WEIGHTS = Path(laglens.__file__).parent / "weights"


def test_every_public_name_loads() -> None:
    assert len(laglens.__all__) > 40
    for name in laglens.__all__:
        assert callable(getattr(laglens, name)), name


def test_importing_laglens_loads_neither_torch_nor_xarray() -> None:
    program = "import sys, laglens; laglens.LaglensError; print({'torch', 'xarray', 'matplotlib'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_a_notebook_finds_the_period_of_a_wave() -> None:
    """The whole way with public names alone: signal, shipped model, capture, controls, lags, table."""
    weights = WEIGHTS / "image_small.safetensors"
    model = laglens.restore_model(laglens.read_card(weights), laglens.read_weights(weights))
    components = [{"period": 72}, {"period": 36, "amplitude": 0.7}, {"period": 24, "amplitude": 0.5}]
    spec = {"generator": "harmonics", "length": 512, "components": components}
    signal = laglens.make_signal(spec, name="wave")
    cut = partial(laglens.windows, history=model.history, horizon=model.horizon, n=8)
    attrs = {"signal": signal.attrs, "model": {"name": "image_small"}}
    observed = laglens.to_time(laglens.attention_tree(model, cut(signal["value"]), attrs=attrs))
    control = laglens.make_control(signal, 19)
    noise = laglens.control_time_tree(model, control, cut, attrs=attrs)
    peaks = laglens.peaks_table(laglens.measure_lags(observed, noise))
    found = peaks[peaks["above"] & (peaks["part"] == "horizon->history")]
    assert len(found)
    offset = np.abs(found["lag"] - 72 * np.maximum(1, np.round(found["lag"] / 72)))
    assert (offset <= model.patch).mean() > 0.5
