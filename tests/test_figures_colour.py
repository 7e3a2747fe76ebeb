"""Colours of the figures as readers with a colour vision deficiency see them.

Simulated with the matrices for full deficiency of Machado, Oliveira and Fernandes (2009), A physiologically-based model
for simulation of color vision deficiency, IEEE Trans. Vis. Comput. Graph. 15(6), 1291-1298, on linear RGB. Distances
are those of CIELAB (CIE 1976), where about 2.3 is just noticeable side by side.
"""

from itertools import combinations

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from laglens.figures import layers, similarity, style

MACHADO = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
# Lines and dots that stand in one panel, and what they are drawn on.
TOGETHER = {
    "series, truth, forecast": (style.INK, style.FAINT, style.ACCENT),
    "profile, limit, second profile": (style.ACCENT, style.MUTED, style.SECOND),
    "lines on white": (style.ACCENT, style.SECOND, style.INK, "white"),
    "outline and dots on a map": (style.OVERLAY, *matplotlib.colormaps[style.SEQUENTIAL]([0.0, 0.25, 0.5])),
    "dots and line on a map": (style.OVERLAY, style.SECOND),
}


def seen(colours, deficiency):
    """CIELAB under a white of D65: (colour, 3)."""
    encoded = np.array([to_rgb(colour) for colour in colours])
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    simulated = np.clip(linear @ MACHADO[deficiency].T, 0, 1)
    ratio = simulated @ XYZ.T / XYZ.sum(1)
    f = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)


def closest(colours, deficiency):
    lab = seen(colours, deficiency)
    return min(float(np.linalg.norm(lab[i] - lab[j])) for i, j in combinations(range(len(lab)), 2))


def test_the_simulation_is_that_of_the_source():
    # Greys are seen as they are; red and green of the same brightness are not told apart, blue and yellow are.
    greys = ["black", "0.2", "0.5", "0.8", "white"]
    for deficiency in MACHADO:
        np.testing.assert_allclose(seen(greys, deficiency), seen(greys, "normal"), atol=0.05)
    np.testing.assert_allclose(seen(["white"], "normal"), [[100, 0, 0]], atol=0.02)
    np.testing.assert_allclose(seen(["red"], "normal"), [[53.24, 80.09, 67.20]], atol=0.05)  # the known value
    red_green = ("#c8645a", "#808a4e")
    assert closest(red_green, "normal") > 40
    assert closest(red_green, "deuteranopia") < 5 and closest(red_green, "tritanopia") > 30


@pytest.mark.parametrize("deficiency", MACHADO)
@pytest.mark.parametrize("name", TOGETHER)
def test_colours_of_one_panel_are_told_apart(name, deficiency):
    assert closest(TOGETHER[name], deficiency) > 20


@pytest.mark.parametrize("deficiency", MACHADO)
def test_categories_are_told_apart_from_each_other_and_from_the_page(deficiency):
    for palette in (layers.COLOURS, style.CATEGORIES):
        assert closest((*palette, "white"), deficiency) > 15


@pytest.mark.parametrize("deficiency", MACHADO)
@pytest.mark.parametrize("name", [style.SEQUENTIAL, similarity.LAYERS])
def test_sequential_maps_grow_brighter_all_the_way(name, deficiency):
    lab = seen(matplotlib.colormaps[name](np.linspace(0, 1, 33)), deficiency)
    assert (np.diff(lab[:, 0]) > 0.5).all() and np.ptp(lab[:, 0]) > 60


@pytest.mark.parametrize("deficiency", MACHADO)
def test_the_two_sides_of_a_difference_are_told_apart_at_every_strength(deficiency):
    for strength in (0.15, 0.3, 0.5):
        pair = matplotlib.colormaps[style.DIVERGING]([0.5 - strength, 0.5 + strength])
        assert closest(pair, deficiency) > 60 * strength
    lab = seen(matplotlib.colormaps[style.DIVERGING](np.linspace(0, 1, 33)), deficiency)
    assert (np.diff(lab[:17, 0]) > 0).all() and (np.diff(lab[16:, 0]) < 0).all()  # paler towards none on either side
