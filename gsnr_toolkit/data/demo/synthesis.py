"""Fully synthetic images, with the traces of the decoders of a GAN and of a latent diffusion model.

Person and pose stay the same; only the traces of how the pixels were generated differ. Real images are the unprocessed
photographs. The amounts are chosen so that no global statistic (colour, file size, total variation, noise level)
separates the classes; tests/gsnr_toolkit/data/demo/test_forgeries.py checks this.
"""

from __future__ import annotations

import numpy as np

from gsnr_toolkit.data.demo.camera import gaussian_blur, lens, noise_level, white_noise
from gsnr_toolkit.data.demo.cross import enlarge
from gsnr_toolkit.data.demo.faces import Floats
from gsnr_toolkit.data.demo.forgeries import Shot, synthetic_noise
from gsnr_toolkit.data.demo.render import render

_GAN_STREAM = 15
_LATENT_STREAM = 16
_DIFFUSION_STREAM = 17

# Tuned against the global statistics. Residues are shares of the intensity, blur and block are in pixels, noise is a
# share of the camera's level, loss a share of the finest detail, white a share of the noise's variance.
_GAN_RESIDUE = 0.013
_GAN_NOISE = 0.78
_GAN_LOSS = 0.05
_BLOCK = 8
_BLOCK_RESIDUE = 0.042
_DIFFUSION_BLUR = 0.42
_DIFFUSION_WHITE = 0.4
_DIFFUSION_NOISE = 0.78


def _whole(shot: Shot) -> Floats:
    return np.ones((len(shot.faces), shot.size, shot.size), dtype=np.float32)


def periodic_pattern(size: int) -> Floats:
    """Return the pattern that two stride-2 transposed convolutions with uneven overlap leave: lines of period 2 and 4.

    Each colour channel has its own mixture, since each output channel has its own kernel. The spectrum has peaks at one
    half and one quarter of the sampling frequency, in rows, columns and their products.

    Args:
        size: Width and height in pixels.

    Returns:
        Pattern (3, size, size) with zero mean over a period and root mean square 1.

    >>> pattern = periodic_pattern(8)
    >>> pattern.shape, bool(np.allclose(pattern[:, :4, :4], pattern[:, 4:, 4:]))
    ((3, 8, 8), True)
    """
    ticks = np.arange(size)
    fast = np.where(ticks % 2 < 1, 1.0, -1.0)
    slow = np.where(ticks % 4 < 2, 1.0, -1.0)
    planes = [fast[:, None] * fast, slow[:, None] * slow, slow[:, None] + 0 * slow, 0 * slow[:, None] + slow]
    weights = np.array([[0.5, 0.6, 0.4, 0.3], [0.4, 0.7, 0.3, 0.5], [0.6, 0.5, 0.5, 0.2]])
    weights /= np.sqrt((weights**2).sum(axis=1, keepdims=True))
    return np.tensordot(weights, np.stack(planes), axes=1).astype(np.float32)


def _decoded(shot: Shot, loss: float) -> Floats:
    """Render the clean face, without a share of the detail that half the resolution cannot hold."""
    clean = lens(render(shot.faces, shot.size), shot.camera)
    even = clean[:, :, : shot.size // 2 * 2, : shot.size // 2 * 2]
    rows = even[:, :, ::2] + even[:, :, 1::2]
    half = (rows[..., ::2] + rows[..., 1::2]) * np.float32(0.25)
    return clean + np.float32(loss) * (enlarge(half, shot.size) - clean)


def adversarial(shot: Shot, strength: float) -> tuple[Floats, Floats]:
    """``gan``: add the checkerboard and spectral peaks of upsampling to the whole image.

    Args:
        shot: Real photographs.
        strength: Scales the pattern, the loss of detail and the loss of noise.

    Returns:
        Synthetic images before development, and a mask of ones.
    """
    clean = _decoded(shot, min(1.0, _GAN_LOSS * strength))
    clean = clean * (1 + np.float32(_GAN_RESIDUE * strength) * periodic_pattern(shot.size))
    return clean + _new_noise(clean, shot, _GAN_NOISE, 0.0, strength, _GAN_STREAM), _whole(shot)


def _new_noise(clean: Floats, shot: Shot, level: float, white: float, strength: float, stream: int) -> Floats:
    """Draw the noise of a decoder; at strength 0 it has the level and the correlation of the camera's noise."""
    level, white = max(0.0, 1 - (1 - level) * strength), min(1.0, white * strength)
    noise = synthetic_noise(shot, white, stream)
    return np.float32(level) * noise_level(np.clip(clean, 0, 1), shot.camera) * noise


def block_detail(shot: Shot) -> Floats:
    """Generate the detail that a decoder invents block by block.

    Each block and channel of each face has a random amount of a fixed shape, which is zero in the middle of the block
    and one at its border, so that neighbouring blocks do not quite match. The grid is offset from JPEG's by half a
    block.

    Args:
        shot: Real photographs.

    Returns:
        Detail (N, 3, S, S), of order one.
    """
    size, blocks = shot.size, shot.size // _BLOCK + 2
    amount = white_noise(shot.faces.identity, blocks, shot.seed, _LATENT_STREAM)
    at = np.arange(size) + _BLOCK // 2
    ramp = np.abs((at % _BLOCK + np.float32(0.5)) * np.float32(2 / _BLOCK) - 1).astype(np.float32)
    shape = np.maximum(ramp[:, None], ramp)
    return amount[:, :, at // _BLOCK][..., at // _BLOCK] * shape


def diffusion(shot: Shot, strength: float) -> tuple[Floats, Floats]:
    """``diff``: smooth the face as denoising does, add detail block by block, and add new noise.

    Args:
        shot: Real photographs.
        strength: Scales the smoothing, the blocks, the loss of noise and the whiteness of the new noise.

    Returns:
        Synthetic images before development, and a mask of ones.
    """
    clean = lens(render(shot.faces, shot.size), shot.camera)
    sigma = np.full(len(shot.faces), _DIFFUSION_BLUR * strength, dtype=np.float32)
    clean = gaussian_blur(clean, sigma)
    clean = clean * (1 + np.float32(_BLOCK_RESIDUE * strength) * block_detail(shot))
    noise = _new_noise(clean, shot, _DIFFUSION_NOISE, _DIFFUSION_WHITE, strength, _DIFFUSION_STREAM)
    return clean + noise, _whole(shot)
