"""Painting of procedural faces, from back to front."""

from __future__ import annotations

import numpy as np

from gsnr_toolkit.data.demo.canvas import Canvas, Patch, column, triangle
from gsnr_toolkit.data.demo.faces import Faces, Floats
from gsnr_toolkit.data.demo.layout import Layout, layout
from gsnr_toolkit.data.demo.render_hair import paint_back_hair, paint_front_hair
from gsnr_toolkit.data.demo.render_parts import paint_beard, paint_eyes, paint_glasses, paint_mouth, paint_nose

_PIXELS_AT_ONCE = 1 << 16


def _paint_background(canvas: Canvas, faces: Faces) -> None:
    scene = faces.scene
    x, y = canvas.image_x, canvas.image_y
    along = x * column(np.cos(scene.backdrop_angle)) + y * column(np.sin(scene.backdrop_angle))
    mix = np.clip(along * np.float32(0.5) + np.float32(0.5), 0, 1)
    pattern = scene.backdrop_pattern
    stripes = np.clip(triangle(along * np.float32(1.3) + column(scene.backdrop_phase[:, 0])) * 4, -1, 1)
    mix = np.where(column(pattern) < 1, stripes * np.float32(0.4) + np.float32(0.5), mix)
    mix = mix + column((pattern > 3).astype(np.float32)) * _bokeh(canvas, scene.backdrop_phase)
    mix = mix[:, None]
    start = scene.backdrop[:, :, None, None]
    canvas.pixels[:] = start + mix * (scene.backdrop_end[:, :, None, None] - start)


def _bokeh(canvas: Canvas, phase: Floats) -> Floats:
    total = np.zeros_like(canvas.x)
    for k in (0, 2, 4):
        dx, dy = canvas.image_x - column(phase[:, k]), canvas.image_y - column(phase[:, k + 1])
        total += np.clip((np.float32(0.09) - dx * dx - dy * dy) * 16, 0, 1)
    return total * np.float32(-0.6)


def _paint_body(canvas: Canvas, faces: Faces) -> None:
    whole, head = canvas.whole(), faces.head
    skin = faces.features.skin
    neck = np.minimum(column(head.neck) - np.abs(whole.x), whole.y - column(head.height * 0.5))
    shadow = np.clip((column(head.height) + np.float32(0.16) - whole.y) * 3, 0, 1)
    whole.paint(whole.cover(neck), skin * np.float32(0.90))
    whole.shade(1 - shadow * whole.cover(neck) * np.float32(0.28))
    top = column(head.height + np.float32(0.13)) + np.float32(0.26) * whole.x * whole.x
    collar = whole.y - top
    scoop = whole.ellipse(head.neck * np.float32(1.08), head.height + np.float32(0.25))
    shirt = np.minimum(collar, -scoop)
    folds = 1 + np.float32(0.05) * triangle(whole.x * np.float32(2.1) + whole.y * np.float32(0.4))
    whole.paint(whole.cover(shirt), faces.scene.clothes[:, :, None, None] * folds[:, None])


def _paint_ears(canvas: Canvas, faces: Faces) -> None:
    head, scene = faces.head, faces.scene
    for side in (-1, 1):
        hidden = 0.05 * side * np.maximum(side * scene.yaw, 0)
        x = (side * (head.width + 0.010) - hidden).astype(np.float32)
        y = faces.features.eye_y + scene.pitch + 0.07
        patch = canvas.at(x, y, 0.24)
        patch.paint(patch.cover(patch.ellipse(head.ear * 0.72, head.ear * 1.2)), faces.features.skin * 0.93)
        patch.shade(1 - np.float32(0.25) * patch.bump(head.ear * 0.6, head.ear))


def head_distance(patch: Patch, faces: Faces, grow: float = 0.0) -> tuple[Floats, Floats]:
    """Compute the signed distance to the head's outline, and the radius from which it follows.

    Args:
        patch: A patch around the head's centre.
        faces: The faces.
        grow: Widening of the outline.

    Returns:
        Signed distance (positive inside) and squared relative radius (1 on the outline), (N, h, w) each.
    """
    head = faces.head
    v = patch.y / column(head.height + grow)
    low = np.maximum(v, 0)
    narrow = column(head.width + grow) * (1 - column(head.jaw) * low * low)
    square = (patch.x / np.maximum(narrow, np.float32(0.05))) ** 2 + v * v
    return (1 - np.sqrt(square)) * column(head.width + grow), square


def _skin_texture(patch: Patch, faces: Faces) -> Floats:
    phase, part = faces.features.texture_phase, faces.features
    x, y = patch.x, patch.y
    fine = triangle(x * np.float32(9.1) + y * np.float32(3.7) + column(phase[:, 0]))
    fine = fine * triangle(y * np.float32(10.3) - x * np.float32(4.9) + column(phase[:, 1]))
    coarse = triangle(x * np.float32(1.7) + y * np.float32(1.1) + column(phase[:, 2]))
    return 1 + column(part.texture) * (fine * np.float32(1.4) + coarse * np.float32(0.6))


def _paint_head(canvas: Canvas, faces: Faces) -> None:
    scene, part, whole = faces.scene, faces.features, canvas.whole()
    distance, square = head_distance(whole, faces)
    lit = column(scene.light_x) * whole.x * 2 + column(scene.light_y) * whole.y * np.float32(1.5)
    tone = 1 + column(scene.light) * lit - np.float32(0.16) * square * square
    tone = np.clip(tone, 0.3, 1.5) * _skin_texture(whole, faces)
    whole.paint(whole.cover(distance), part.skin[:, :, None, None] * tone[:, None])


def _paint_cheeks(canvas: Canvas, faces: Faces, plan: Layout) -> None:
    part = faces.features
    rosy = part.skin * np.array([1.0, 0.66, 0.64], dtype=np.float32)
    reach = np.full_like(part.blush, 0.17)
    for eye in plan.eyes:
        patch = canvas.at(eye.x, eye.y + np.float32(0.24), 0.18)
        patch.paint(patch.bump(reach, reach) * column(part.blush), rosy)
        socket = canvas.at(eye.x, eye.y - np.float32(0.035), 0.21)
        socket.shade(1 - np.float32(0.17) * socket.bump(reach * np.float32(1.15), reach * np.float32(0.75)))


def _expose(canvas: Canvas, faces: Faces) -> None:
    scene = faces.scene
    side = 1 + np.float32(0.10) * column(scene.light_x) * canvas.image_x
    canvas.pixels *= (side * column(scene.exposure))[:, None]
    np.clip(canvas.pixels, 0, 1, out=canvas.pixels)


def _render_block(faces: Faces, size: int) -> Floats:
    canvas, plan = Canvas(faces, size), layout(faces)
    _paint_background(canvas, faces)
    paint_back_hair(canvas, faces)
    _paint_body(canvas, faces)
    _paint_ears(canvas, faces)
    _paint_head(canvas, faces)
    _paint_cheeks(canvas, faces, plan)
    paint_beard(canvas, faces, plan)
    paint_nose(canvas, faces, plan)
    paint_mouth(canvas, faces, plan)
    paint_eyes(canvas, faces, plan)
    paint_front_hair(canvas, faces)
    paint_glasses(canvas, faces, plan)
    _expose(canvas, faces)
    return canvas.pixels


def render(faces: Faces, size: int = 64) -> Floats:
    """Paint faces as a camera without noise would see them.

    Args:
        faces: The faces, N of them.
        size: Width and height in pixels, at least 16.

    Returns:
        Images (N, 3, size, size), float32 in [0, 1].

    Raises:
        ValueError: If ``size`` is below 16.

    >>> from gsnr_toolkit.data.demo.faces import sample_faces
    >>> render(sample_faces([5]), size=32).shape
    (1, 3, 32, 32)
    """
    if size < 16:
        raise ValueError(f"expected at least 16 pixels for a face, got size={size}; pass size=64 or more")
    step = max(1, _PIXELS_AT_ONCE // (size * size))
    blocks = [_render_block(faces.take(slice(i, i + step)), size) for i in range(0, len(faces), step)]
    return np.concatenate(blocks) if blocks else np.zeros((0, 3, size, size), dtype=np.float32)
