import numpy as np

from orchestrator.models.base import Sample
from orchestrator.telemetry.pictures import of_sample


def test_a_small_image_is_enlarged_by_whole_pixels():
    image = np.zeros((8, 8, 1), np.float32)
    image[0, 0] = 1.0
    pixels = of_sample(Sample("x", "image", image))
    assert pixels.shape == (128, 128, 3) and pixels.dtype == np.uint8
    assert pixels[:16, :16].min() == 255 and pixels[16:, :].max() == 0


def test_a_series_is_drawn_inside_its_frame():
    lines = np.stack([np.linspace(0, 1, 50), np.full(50, np.nan)])
    pixels = of_sample(Sample("x", "series", lines, ("true", "none")))
    drawn = (pixels != 255).any(axis=2)
    rows, columns = np.nonzero(drawn)
    assert rows.min() >= 12 and columns.max() < 480 - 12
    assert rows[columns == columns.min()].mean() > rows[columns == columns.max()].mean()
