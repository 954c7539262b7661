"""Images that are synthetic as a whole: the traces that a GAN's and a latent diffusion model's decoder leave.

The face stays the same person in the same pose; what changes is how its pixels came about. Real images are the
unprocessed photographs. Amounts are chosen so that no global statistic (colour, file size, total variation,
noise level) tells the classes apart; tests/gsnr_toolkit/data/demo/test_forgeries.py holds that.
"""

from __future__ import annotations

import numpy as np

from gsnr_toolkit.data.demo.camera import correlate, gaussian_blur, lens, noise_level, white_noise
from gsnr_toolkit.data.demo.cross import enlarge
from gsnr_toolkit.data.demo.faces import Floats
from gsnr_toolkit.data.demo.forgeries import Shot
from gsnr_toolkit.data.demo.render import render

_GAN_STREAM = 15
_LATENT_STREAM = 16
_DIFFUSION_STREAM = 17

# Found by trial against the global statistics. Residues in shares of the intensity, blur and block in pixels, noise
# in shares of the camera's level, loss in shares of the finest detail, white in shares of the noise's variance.
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
    """What two stride-2 transposed convolutions with uneven overlap leave: lines of period 2 and 4.

    Each channel has its own mixture, as each output channel has its own kernel. The spectrum has peaks at a
    half and a quarter of the sampling frequency, in rows, columns and their products.

    Args:
        size: Width and height in pixels.

    Returns:
        Pattern (3, size, size) of zero mean over a period, root mean square 1.

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
    # The clean face, with a share of the detail that a decoder starting from half the resolution lacks.
    clean = lens(render(shot.faces, shot.size), shot.camera)
    even = clean[:, :, : shot.size // 2 * 2, : shot.size // 2 * 2]
    rows = even[:, :, ::2] + even[:, :, 1::2]
    half = (rows[..., ::2] + rows[..., 1::2]) * np.float32(0.25)
    return clean + np.float32(loss) * (enlarge(half, shot.size) - clean)


def adversarial(shot: Shot, strength: float) -> tuple[Floats, Floats]:
    """``gan``: up-sampling leaves a checkerboard and spectral peaks over the whole image.

    Args:
        shot: Real photographs.
        strength: Scales the pattern, the loss of detail and the lack of noise.

    Returns:
        Synthetic images before development, and a mask of ones.
    """
    clean = _decoded(shot, min(1.0, _GAN_LOSS * strength))
    clean = clean * (1 + np.float32(_GAN_RESIDUE * strength) * periodic_pattern(shot.size))
    return clean + _new_noise(clean, shot, _GAN_NOISE, 0.0, strength, _GAN_STREAM), _whole(shot)


def _new_noise(clean: Floats, shot: Shot, level: float, white: float, strength: float, stream: int) -> Floats:
    # At strength 0 it has the level and the correlation of the camera's own noise.
    level, white = max(0.0, 1 - (1 - level) * strength), min(1.0, white * strength)
    fresh = white_noise(shot.faces.identity, shot.size, shot.seed, stream)
    noise = np.float32(np.sqrt(white)) * fresh + np.float32(np.sqrt(1 - white)) * correlate(fresh[:, ::-1])
    return np.float32(level) * noise_level(np.clip(clean, 0, 1), shot.camera) * noise


def block_detail(shot: Shot) -> Floats:
    """Detail that a decoder invents block by block: a fixed shape, with a random amount in each block.

    One number per block and channel, drawn for each face, times a shape that is zero in the middle of the
    block and one at its border: neighbouring blocks do not quite fit together. The grid is half a block off
    JPEG's.

    Args:
        shot: Real photographs.

    Returns:
        Detail (N, 3, S, S), of the order of one.
    """
    size, blocks = shot.size, shot.size // _BLOCK + 2
    amount = white_noise(shot.faces.identity, blocks, shot.seed, _LATENT_STREAM)
    at = np.arange(size) + _BLOCK // 2
    ramp = np.abs((at % _BLOCK + np.float32(0.5)) * np.float32(2 / _BLOCK) - 1).astype(np.float32)
    shape = np.maximum(ramp[:, None], ramp)
    return amount[:, :, at // _BLOCK][..., at // _BLOCK] * shape


def diffusion(shot: Shot, strength: float) -> tuple[Floats, Floats]:
    """``diff``: smooth as after denoising, detail invented block by block, noise synthesised anew.

    Args:
        shot: Real photographs.
        strength: Scales the smoothing, the blocks, the lack of noise and its whiteness.

    Returns:
        Synthetic images before development, and a mask of ones.
    """
    clean = lens(render(shot.faces, shot.size), shot.camera)
    sigma = np.full(len(shot.faces), _DIFFUSION_BLUR * strength, dtype=np.float32)
    clean = gaussian_blur(clean, sigma)
    clean = clean * (1 + np.float32(_BLOCK_RESIDUE * strength) * block_detail(shot))
    noise = _new_noise(clean, shot, _DIFFUSION_NOISE, _DIFFUSION_WHITE, strength, _DIFFUSION_STREAM)
    return clean + noise, _whole(shot)
