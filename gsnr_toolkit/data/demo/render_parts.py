"""Painting of the inner face: eyes, brows, nose, mouth, beard, glasses."""

from __future__ import annotations

import numpy as np

from gsnr_toolkit.data.demo.attributes import ATTRIBUTES
from gsnr_toolkit.data.demo.canvas import Canvas, Patch, column, triangle
from gsnr_toolkit.data.demo.faces import Faces, Floats
from gsnr_toolkit.data.demo.layout import Layout, Lens

_BEARDS = ATTRIBUTES["beard"].values
_GLASSES = ATTRIBUTES["glasses"].values


def _flat(faces: Faces, red: float, green: float, blue: float) -> Floats:
    return np.broadcast_to(np.array([red, green, blue], dtype=np.float32), (len(faces), 3))


def _is(codes: np.ndarray, index: int) -> Floats:
    return column((codes == index).astype(np.float32))


def paint_nose(canvas: Canvas, faces: Faces, plan: Layout) -> None:
    """Paint the nose: shadow away from the light, highlight on the bridge, nostrils."""
    part, light = faces.features, faces.scene.light_x
    length = plan.nose_y - plan.nose_top
    middle = plan.nose_top + length * 0.62
    away = canvas.at(plan.nose_x - 0.045 * light, middle, 0.26)
    away.shade(1 - np.float32(0.22) * away.bump(part.nose_width, length * 0.75))
    bridge = canvas.at(plan.nose_x * 0.75 + 0.012 * light, middle, 0.24)
    bridge.shade(1 + np.float32(0.20) * bridge.bump(part.nose_width * 0.42, length * 0.78))
    tip = canvas.at(plan.nose_x, plan.nose_y + 0.012, 0.16)
    below = Lens(plan.nose_x, plan.nose_y, part.nose_width, length * 0, length * 0 + 0.042, length * 0, light * 0)
    tip.shade(1 - np.float32(0.30) * tip.cover(tip.lens(below)))
    for side in (-1, 1):
        x = plan.nose_x + side * part.nose_width * 0.46
        nostril = canvas.at(x, plan.nose_y + 0.030, 0.06)
        wide = part.nose_width * 0.27
        nostril.shade(1 - np.float32(0.55) * nostril.cover(nostril.ellipse(wide, wide * 0.55)))


def paint_mouth(canvas: Canvas, faces: Faces, plan: Layout) -> None:
    """Paint lips, the opening and the teeth."""
    part, move, lips, mouth = faces.features, faces.expression, plan.lips, plan.mouth
    patch = canvas.at(lips.x, lips.y, 0.36)
    chin = canvas.at(lips.x, lips.y + lips.lower + 0.05, 0.17)
    chin.shade(1 - np.float32(0.16) * chin.bump(lips.half_width * 0.7, lips.half_width * 0 + 0.06))
    u = patch.x / column(lips.half_width)
    upper = patch.y < column(lips.bend) * u * u
    tone = np.where(upper, np.float32(0.86), np.float32(1.06))
    patch.paint(patch.cover(patch.lens(lips)), part.lip_color[:, :, None, None] * tone[:, None])
    gap = patch.cover(patch.lens(mouth, grow=0.007))
    patch.paint(gap, part.lip_color * np.float32(0.38))
    inside = patch.lens(mouth)
    middle = patch.y - column(mouth.bend) * (patch.x / column(mouth.half_width)) ** 2
    teeth = np.minimum(inside, column(mouth.lower * np.float32(0.30)) - middle)
    alpha = patch.cover(teeth) * column(move.teeth * (move.mouth_open > 0.02))
    patch.paint(alpha, _flat(faces, 0.96, 0.95, 0.91))


def _paint_iris(patch: Patch, faces: Faces, white: Floats) -> None:
    part = faces.features
    radius = part.eye_height * np.float32(0.98)
    shift = column(faces.expression.gaze * 0.03 + faces.scene.yaw * 0.016)
    ball = Patch(patch.pixels, patch.x - shift, patch.y + column(radius * 0.10), patch.sharp)
    iris = ball.ellipse(radius, radius)
    ball.paint(white * ball.cover(iris), part.eye_color * np.float32(0.55))
    ball.paint(white * ball.cover(iris - column(radius * 0.18)), part.eye_color)
    ball.paint(white * ball.cover(ball.ellipse(radius * 0.46, radius * 0.46)), _flat(faces, 0.03, 0.03, 0.04))
    offset = column(radius * 0.34)
    glint = Patch(patch.pixels, ball.x + offset, ball.y + offset, patch.sharp)
    glint.paint(white * glint.cover(glint.ellipse(radius * 0.24, radius * 0.24)), _flat(faces, 1.0, 1.0, 1.0))


def paint_eyes(canvas: Canvas, faces: Faces, plan: Layout) -> None:
    """Paint eyes, lids and brows."""
    part = faces.features
    for eye, brow in zip(plan.eyes, plan.brows, strict=True):
        patch = canvas.at(eye.x, eye.y, 0.24)
        shape = patch.lens(eye)
        white = patch.cover(shape)
        patch.paint(patch.cover(patch.lens(eye, grow=0.020)), part.skin * np.float32(0.62))
        patch.paint(white, _flat(faces, 0.95, 0.95, 0.94))
        _paint_iris(patch, faces, white)
        u = patch.x / column(eye.half_width)
        lid = patch.y + column(eye.upper) * (1 - u * u) - column(eye.tilt) * u
        lash = np.minimum(np.float32(0.017) - np.abs(lid), (1.06 - np.abs(u)) * column(eye.half_width))
        patch.paint(patch.cover(lash) * np.float32(0.9), part.brow_color * np.float32(0.45))
        above = canvas.at(brow.x, brow.y, 0.24)
        above.paint(above.cover(above.lens(brow, grow=0.004)) * np.float32(0.92), part.brow_color)


def paint_beard(canvas: Canvas, faces: Faces, plan: Layout) -> None:
    """Paint stubble, moustache or beard below the nose."""
    part, head, lips = faces.features, faces.head, plan.lips
    if not part.beard.any():
        return
    zero = np.zeros_like(lips.x)
    patch = canvas.at(zero, plan.nose_y * 0 + 0.38, 0.66)
    y = patch.y + np.float32(0.38)
    v = np.maximum(y, 0) / column(head.height * np.float32(1.03))
    wide = column(head.width * np.float32(1.01)) * (1 - column(head.jaw) * v * v)
    face = (1 - np.sqrt((patch.x / wide) ** 2 + v * v)) * wide
    cheek = y - column(plan.nose_y + 0.02) + np.float32(0.55) * (np.abs(patch.x) - column(head.width * 0.55))
    full = np.minimum(face + np.float32(0.012), cheek)
    grain = triangle(patch.x * np.float32(11.3) + y * np.float32(5.1))
    grain = grain * triangle(y * np.float32(8.7) - patch.x * np.float32(3.3))
    color = part.beard_color[:, :, None, None] * (1 + np.float32(0.16) * grain)[:, None]
    soft = np.clip(full * 14, 0, 1)
    patch.paint(soft * _is(part.beard, _BEARDS.index("beard")), color)
    shadow = soft * (np.float32(0.34) + np.float32(0.14) * grain)
    patch.paint(shadow * _is(part.beard, _BEARDS.index("stubble")), color)
    _paint_moustache(canvas, faces, plan)


def _paint_moustache(canvas: Canvas, faces: Faces, plan: Layout) -> None:
    part, lips = faces.features, plan.lips
    y = (lips.y - lips.upper + plan.nose_y + 0.035) * np.float32(0.5) + 0.004
    shape = Lens(lips.x, y, lips.half_width * 0.98, y * 0 + 0.036, y * 0 + 0.030, y * 0 + 0.045, y * 0)
    patch = canvas.at(lips.x, y, 0.34)
    worn = _is(part.beard, _BEARDS.index("moustache")) + _is(part.beard, _BEARDS.index("beard"))
    patch.paint(patch.cover(patch.lens(shape)) * worn * np.float32(0.95), part.beard_color)


def paint_glasses(canvas: Canvas, faces: Faces, plan: Layout) -> None:
    """Paint glasses or sunglasses where worn."""
    part, head = faces.features, faces.head
    worn = (part.glasses > 0).astype(np.float32)
    if not worn.any():
        return
    dark = column((part.glasses == _GLASSES.index("sunglasses")).astype(np.float32))
    for side, eye in zip((-1, 1), plan.eyes, strict=True):
        patch = canvas.at(eye.x, eye.y + 0.015, 0.36)
        radius = eye.half_width * 0 + 0.165
        ring = patch.ellipse(radius, radius * 0.86)
        tint = patch.cover(ring) * (dark * np.float32(0.84) + np.float32(0.10)) * column(worn)
        patch.paint(tint, faces.features.glasses_color * (1 - dark[:, :, 0]) + dark[:, :, 0] * np.float32(0.06))
        rim = np.float32(0.019) - np.abs(ring)
        u = patch.x * side
        arm_end = column(head.width) - column(side * eye.x)
        arm = np.minimum(np.float32(0.014) - np.abs(patch.y), np.minimum(u - column(radius), arm_end - u))
        bridge = np.minimum(
            np.float32(0.014) - np.abs(patch.y + 0.03), np.minimum(-u - column(radius) * 0.93, 0.27 + u)
        )
        frame = np.maximum(rim, np.maximum(arm, bridge))
        patch.paint(patch.cover(frame) * column(worn), part.glasses_color)
