"""Painting of hair: what lies behind the head and what frames the face."""

from __future__ import annotations

import numpy as np

from gsnr_toolkit.data.demo.attributes import ATTRIBUTES
from gsnr_toolkit.data.demo.canvas import Canvas, Patch, column, triangle
from gsnr_toolkit.data.demo.faces import Faces, Floats

_STYLES = ATTRIBUTES["hair_style"].values


def _has(faces: Faces, *styles: str) -> Floats:
    wanted = np.isin(faces.head.hair_style, [_STYLES.index(style) for style in styles])
    return column(wanted.astype(np.float32))


def _strands(patch: Patch, faces: Faces) -> Floats:
    phase, scene = faces.head.hair_phase, faces.scene
    part = patch.x - column(phase[:, 1] - np.float32(0.5)) * np.float32(0.5)
    fan = part * (np.float32(6.1) - np.float32(5.0) * patch.y)
    waves = triangle(fan + column(phase[:, 0])) * triangle(fan * np.float32(2.3) + patch.y * np.float32(0.8))
    curls = triangle(patch.x * np.float32(4.7) + column(phase[:, 1]))
    curls = curls * triangle(patch.y * np.float32(4.7) + column(phase[:, 2]))
    shine = 1 - np.abs(patch.y + np.float32(0.52)) * np.float32(1.2)
    tone = 1 + np.float32(0.075) * waves + np.float32(0.14) * np.maximum(shine, 0)
    tone = tone + _has(faces, "curly") * curls * np.float32(0.28)
    return tone + column(scene.light * scene.light_x) * patch.x


def paint_back_hair(canvas: Canvas, faces: Faces) -> None:
    """Paint the hair behind head and shoulders (long and curly hair)."""
    head, whole = faces.head, canvas.whole()
    spread = column(head.width + head.hair_volume * np.float32(0.9))
    top = column(head.height * np.float32(0.98) + head.hair_volume)
    crown = np.sqrt((whole.x / spread) ** 2 + (np.minimum(whole.y, 0) / top) ** 2)
    fall = np.float32(1.0) + np.float32(0.06) * np.maximum(whole.y, 0)
    long_hair = np.minimum((fall - crown) * spread, np.float32(0.92) - whole.y)
    round_hair = (1 - np.sqrt((whole.x / (spread * 1.10)) ** 2 + ((whole.y + 0.10) / top) ** 2)) * spread
    curls = triangle(whole.x * np.float32(4.7)) * triangle(whole.y * np.float32(4.7))
    round_hair = round_hair + curls * np.float32(0.035)
    alpha = whole.cover(long_hair) * _has(faces, "long") + whole.cover(round_hair) * _has(faces, "curly")
    tone = _strands(whole, faces) * np.float32(0.80)
    whole.paint(alpha, head.hair[:, :, None, None] * tone[:, None])


def paint_front_hair(canvas: Canvas, faces: Faces) -> None:
    """Paint the hair over the forehead and along the temples."""
    head, whole = faces.head, canvas.whole()
    volume = column(head.hair_volume)
    wide, tall = column(head.width) + volume * np.float32(0.55), column(head.height) + volume
    cap = (1 - np.sqrt((whole.x / wide) ** 2 + (whole.y / tall) ** 2)) * wide
    curls = triangle(whole.x * np.float32(3.9) + column(head.hair_phase[:, 0]))
    curls = curls * triangle(whole.y * np.float32(3.9) + column(head.hair_phase[:, 1]))
    cap = cap + _has(faces, "curly") * (curls * np.float32(0.03) + np.float32(0.035))
    u = (whole.x - column(faces.scene.yaw * np.float32(0.05))) / column(head.width)
    side = u * u
    teeth = triangle(whole.x * np.float32(3.1) + column(head.hair_phase[:, 2])) * np.float32(0.022)
    line = column(head.hairline) + side * side * np.float32(0.42) + side * np.float32(0.05)
    fringe = column(faces.features.brow_y) - np.float32(0.085) + teeth + side * side * np.float32(0.30)
    edge = line + _has(faces, "fringe") * (fringe - line) + _has(faces, "long") * side * np.float32(0.14)
    front = np.minimum(cap, edge - whole.y)
    locks = np.minimum(np.float32(0.085) - np.abs(np.abs(whole.x) - column(head.width)), whole.y + 0.3)
    locks = np.minimum(locks, np.float32(0.85) - whole.y)
    alpha = np.maximum(whole.cover(front), whole.cover(locks) * _has(faces, "long"))
    alpha = alpha * (1 - _has(faces, "bald"))
    whole.paint(alpha, head.hair[:, :, None, None] * _strands(whole, faces)[:, None])
