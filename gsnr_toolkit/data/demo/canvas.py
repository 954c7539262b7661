"""A batch of images to paint on, with signed distances, anti-aliased edges, and windows that save time.

Every operation is elementwise and uses additions, products, square roots and comparisons only. The pixels of a face
therefore do not depend on the batch in which it is painted.
"""

from __future__ import annotations

import numpy as np

from gsnr_toolkit.data.demo.faces import Faces, Floats
from gsnr_toolkit.data.demo.layout import Lens


def column(values: Floats) -> Floats:
    """Reshape per-face values (N,) to (N, 1, 1), float32, to combine them with pixel grids."""
    return np.asarray(values, dtype=np.float32)[:, None, None]


def triangle(phase: Floats) -> Floats:
    """Compute a triangle wave of period 1 with values in [-1, 1].

    Args:
        phase: Any array.

    Returns:
        Array of the same shape.

    >>> triangle(np.array([0.0, 0.25, 0.5])).tolist()
    [1.0, 0.0, -1.0]
    """
    return np.abs(phase - np.floor(phase) - np.float32(0.5)) * np.float32(4) - np.float32(1)


class Patch:
    """A window of a canvas, with coordinates relative to a point of the head.

    Attributes:
        pixels: View (N, 3, h, w) of the canvas.
        x: Horizontal head coordinate relative to the point, (N, h, w).
        y: Vertical head coordinate relative to the point, (N, h, w).
        sharp: Pixels per unit of head coordinates, (N, 1, 1).
    """

    def __init__(self, pixels: Floats, x: Floats, y: Floats, sharp: Floats) -> None:
        self.pixels, self.x, self.y, self.sharp = pixels, x, y, sharp

    def cover(self, distance: Floats) -> Floats:
        """Compute how much of each pixel a shape covers, from the signed distance to its edge (positive inside).

        Args:
            distance: In head coordinates, (N, h, w).

        Returns:
            Coverage in [0, 1].
        """
        return np.clip(distance * self.sharp + np.float32(0.5), 0, 1)

    def ellipse(self, half_width: Floats, half_height: Floats) -> Floats:
        """Approximate the signed distance to an ellipse around the patch's point.

        Args:
            half_width: (N,).
            half_height: (N,).

        Returns:
            Signed distance, (N, h, w), positive inside.
        """
        radius = np.sqrt((self.x / column(half_width)) ** 2 + (self.y / column(half_height)) ** 2)
        return (1 - radius) * column(np.minimum(half_width, half_height))

    def rounded_box(self, half_width: Floats, half_height: Floats) -> Floats:
        """Approximate the signed distance to ``(x / half_width)^4 + (y / half_height)^4 = 1``.

        Args:
            half_width: (N,).
            half_height: (N,).

        Returns:
            Signed distance, (N, h, w), positive inside.
        """
        across, down = (self.x / column(half_width)) ** 2, (self.y / column(half_height)) ** 2
        return (1 - np.sqrt(np.sqrt(across * across + down * down))) * column(np.minimum(half_width, half_height))

    def lens(self, lens: Lens, grow: float = 0.0) -> Floats:
        """Compute the vertical signed distance to a lens whose middle is the patch's point.

        Args:
            lens: The shape.
            grow: Widening on each side, in head coordinates.

        Returns:
            Signed distance, (N, h, w), positive inside.
        """
        u = self.x / column(lens.half_width + grow)
        square = u * u
        middle = self.y - column(lens.bend) * square - column(lens.tilt) * u
        thin = 1 - square
        return np.minimum(middle + column(lens.upper + grow) * thin, column(lens.lower + grow) * thin - middle)

    def bump(self, half_width: Floats, half_height: Floats) -> Floats:
        """Compute a smooth bump ``(1 - r^2)^2`` around the patch's point, zero outside the ellipse ``r = 1``.

        Args:
            half_width: (N,).
            half_height: (N,).

        Returns:
            Values in [0, 1], (N, h, w).
        """
        square = (self.x / column(half_width)) ** 2 + (self.y / column(half_height)) ** 2
        inside = np.maximum(1 - square, 0)
        return inside * inside

    def paint(self, alpha: Floats, color: Floats) -> None:
        """Paint a colour over the window.

        Args:
            alpha: Opacity, (N, h, w).
            color: (N, 3), or (N, 3, h, w) for a texture.
        """
        color = color[:, :, None, None] if color.ndim == 2 else color
        self.pixels += alpha[:, None] * (color - self.pixels)

    def shade(self, factor: Floats) -> None:
        """Multiply the window's pixels.

        Args:
            factor: (N, h, w); 1 leaves a pixel unchanged.
        """
        self.pixels *= factor[:, None]


class Canvas:
    """Images (N, 3, size, size) and the head coordinates of their pixels.

    Args:
        faces: The faces to be painted, N of them.
        size: Width and height in pixels.
    """

    def __init__(self, faces: Faces, size: int) -> None:
        scene = faces.scene
        ticks = ((np.arange(size) + 0.5) * (2 / size) - 1).astype(np.float32)
        self.pixels = np.zeros((len(faces), 3, size, size), dtype=np.float32)
        self.image_x = np.broadcast_to(ticks, (len(faces), size, size))
        self.image_y = np.broadcast_to(ticks[:, None], (len(faces), size, size))
        self._cos = np.cos(scene.roll).astype(np.float32)
        self._sin = np.sin(scene.roll).astype(np.float32)
        dx, dy = self.image_x - column(scene.center_x), self.image_y - column(scene.center_y)
        cos, sin = column(self._cos / scene.scale), column(self._sin / scene.scale)
        self.x = dx * cos + dy * sin
        self.y = dy * cos - dx * sin
        self._scene = scene
        self._size = size
        self._sharp = column(scene.scale * (size / 2))

    def whole(self) -> Patch:
        """Return the whole canvas as a patch around the head's centre."""
        return Patch(self.pixels, self.x, self.y, self._sharp)

    def at(self, x: Floats, y: Floats, reach: float) -> Patch:
        """Return the smallest window that contains, for every face, all pixels within ``reach`` of a point.

        Args:
            x: Points in head coordinates, (N,).
            y: Points in head coordinates, (N,).
            reach: Radius in head coordinates; nothing may be painted outside it.

        Returns:
            The patch, with coordinates relative to the points.
        """
        scale = self._scene.scale
        column_x = self._scene.center_x + scale * (x * self._cos - y * self._sin)
        row_y = self._scene.center_y + scale * (x * self._sin + y * self._cos)
        far = scale * reach + 2 / self._size  # one pixel more, for the anti-aliased edge
        rows = self._range(row_y - far, row_y + far)
        columns = self._range(column_x - far, column_x + far)
        window = (slice(None), rows, columns)
        pixels = self.pixels[:, :, rows, columns]
        return Patch(pixels, self.x[window] - column(x), self.y[window] - column(y), self._sharp)

    def _range(self, low: Floats, high: Floats) -> slice:
        first = int(np.floor((float(low.min()) + 1) * self._size / 2))
        last = int(np.ceil((float(high.max()) + 1) * self._size / 2))
        first = min(max(first, 0), self._size - 1)
        return slice(first, max(min(last, self._size), first + 1))
