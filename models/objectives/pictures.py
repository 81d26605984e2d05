"""Images for people to look at."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import Tensor


def grid(images_BCHW: Tensor, columns: int | None = None) -> np.ndarray[Any, Any]:
    """Images in [0, 1] side by side, in rows, as one (H, W, 1 or 3) array; a pixel of white between them."""
    images = images_BCHW.detach().float().clamp(0, 1).cpu().numpy()
    images = images[:, :3] if images.shape[1] >= 3 else images[:, :1]
    count, channels, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    canvas = np.ones((rows * (height + 1) - 1, columns * (width + 1) - 1, channels), dtype=np.float32)
    for index, image in enumerate(images):
        top, left = index // columns * (height + 1), index % columns * (width + 1)
        canvas[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    return canvas
