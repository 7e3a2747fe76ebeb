"""Pictures of a series: where each sample is drawn, against a drawing made pixel by pixel."""

import numpy as np
import pytest
import torch

from laglens.models.rendering import LIMIT, PEN, draw_line, draw_raster, standardise

SIZES = [(40, 40), (40, 97), (97, 40), (150, 40), (1, 16)]  # samples, columns


def walk(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(2, n)).cumsum(1)


@pytest.mark.parametrize(("n", "width"), SIZES)
def test_a_line_joins_the_samples_and_loses_none(n: int, width: int) -> None:
    """Reference: the curve on a fine grid of each column, in float64, without any of the tensors' indexing."""
    values, height = np.clip(walk(n), -3, 3), 32
    picture = draw_line(torch.from_numpy(values), height, width)
    assert picture.shape == (2, height, width)
    centre = (np.arange(n) + 0.5) * width / n  # of each sample, in columns
    for b in range(2):
        for column in range(width):
            inside = centre[(centre >= column) & (centre < column + 1)]
            at = np.concatenate([np.linspace(column, column + 1, 50), inside])
            curve = np.interp(at, centre, values[b])
            middle = LIMIT - (np.arange(height) + 0.5) * 2 * LIMIT / height
            gap = np.maximum(0, np.maximum(middle - curve.max(), curve.min() - middle)) * height / (2 * LIMIT)
            expected = 1 - np.exp(-0.5 * (gap / PEN) ** 2)
            np.testing.assert_allclose(picture[b, :, column], expected, atol=1e-9)


def test_a_spike_between_columns_is_drawn_and_high_values_are_on_top() -> None:
    values = torch.zeros(1, 1000, dtype=torch.float64)
    values[0, 503] = 3.0
    picture = draw_line(values, 70, 20)[0]
    dark = torch.nonzero(picture.min(1).values < 0.1).flatten()
    assert dark.min() <= 6 and dark.max() >= 34  # from row 5, at 3 standard deviations, down to the middle
    assert picture[6, 10] < 0.1 and picture[6, [9, 11]].min() > 0.9


def test_values_beyond_the_edge_stay_in_the_picture() -> None:
    picture = draw_line(torch.tensor([[-100.0, 100.0]]), 20, 2)[0]
    assert picture[19, 0] < 0.2 and picture[0, 1] < 0.2


@pytest.mark.parametrize(("n", "width"), SIZES)
def test_a_raster_has_one_grey_to_a_column(n: int, width: int) -> None:
    values = np.clip(walk(n), -3, 3)
    picture = draw_raster(torch.from_numpy(values), 5, width)
    assert picture.shape == (2, 5, width)
    assert torch.equal(picture, picture[:, :1].expand(-1, 5, -1))
    if n < width:
        at = (np.arange(width) + 0.5) * n / width - 0.5
        expected = np.stack([np.interp(at, np.arange(n), row) for row in values])
    elif n == width:
        expected = values
    else:
        first = np.arange(width) * n // width
        last = -(-(np.arange(width) + 1) * n // width)
        expected = np.stack([[row[a:b].mean() for a, b in zip(first, last, strict=True)] for row in values])
    np.testing.assert_allclose(picture[:, 0], expected / (2 * LIMIT) + 0.5, atol=1e-12)


def test_a_series_is_drawn_in_its_own_standard_deviations() -> None:
    series = torch.from_numpy(1e6 + 5 * walk(200))
    scaled = standardise(series)
    assert scaled.dtype == torch.float32
    torch.testing.assert_close(scaled.mean(1), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(scaled.std(1), torch.ones(2), atol=1e-6, rtol=0)
    assert torch.equal(standardise(torch.full((1, 50), 0.1, dtype=torch.float64)), torch.zeros(1, 50))
