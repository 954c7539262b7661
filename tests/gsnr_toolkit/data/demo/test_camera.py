from __future__ import annotations

import numpy as np

from gsnr_toolkit.data.demo.camera import (
    PHOTOGRAPHIC,
    correlate,
    develop,
    gaussian_blur,
    noise_level,
    sample_cameras,
    white_noise,
)
from gsnr_toolkit.data.demo.faces import sample_faces

IDENTITIES = np.arange(64)


def _neighbours(noise: np.ndarray) -> float:
    return float((noise[..., :-1] * noise[..., 1:]).mean() / noise.var())


def test_sensor_noise_is_correlated_and_has_unit_variance() -> None:
    white = white_noise(IDENTITIES, 64, seed=0, stream=1)
    noise = correlate(white)
    np.testing.assert_allclose(noise.std(axis=(0, 2, 3)), 1.0, atol=0.02)
    assert _neighbours(noise[:, 1]) > 0.3
    assert _neighbours(noise[:, 0]) > _neighbours(noise[:, 1])  # red is interpolated more than green
    assert abs(_neighbours(white)) < 0.01  # the control: white noise is not correlated
    assert (noise[:, 0] * noise[:, 1]).mean() > 0.3


def test_noise_of_different_identities_and_streams_is_independent() -> None:
    noise = white_noise(IDENTITIES[:2], 64, seed=0, stream=1)
    other = white_noise(IDENTITIES[:2], 64, seed=0, stream=2)
    bound = 5 / np.sqrt(noise[0].size)
    assert abs((noise[0] * noise[1]).mean()) < bound
    assert abs((noise[0] * other[0]).mean()) < bound
    np.testing.assert_array_equal(noise[1], white_noise(IDENTITIES[1:2], 64, seed=0, stream=1)[0])


def test_bright_pixels_are_noisier() -> None:
    camera = sample_cameras(sample_faces([3]))
    dark, bright = noise_level(np.array([0.0, 1.0]).reshape(1, 1, 1, 2), camera)[0, 0, 0]
    np.testing.assert_allclose(dark, camera.read[0], rtol=1e-5)
    np.testing.assert_allclose(bright**2 - dark**2, camera.shot[0] ** 2, rtol=1e-4)


def test_blur_has_the_stated_width_and_keeps_the_sum() -> None:
    point = np.zeros((2, 1, 41, 41), dtype=np.float32)
    point[:, :, 20, 20] = 1
    sigma = np.array([0.8, 2.0])
    blurred = gaussian_blur(point, sigma)
    offset = np.arange(41) - 20
    np.testing.assert_allclose(blurred.sum(axis=(1, 2, 3)), 1, rtol=1e-5)
    variance = (blurred[:, 0].sum(axis=1) * offset**2).sum(axis=1)
    np.testing.assert_allclose(np.sqrt(variance), sigma, rtol=0.1)


def test_photographic_attributes_describe_the_settings() -> None:
    faces = sample_faces(range(800))
    camera = sample_cameras(faces)
    grainy, blurry, coarse = (camera.codes[name] == 1 for name in ("grain", "blur", "compression"))
    assert camera.read[grainy].min() > camera.read[~grainy].max()
    assert camera.blur[blurry].min() > camera.blur[~blurry].max()
    assert camera.quality[coarse].max() < camera.quality[~coarse].min()
    assert faces.scene.exposure[camera.codes["lighting"] == 0].max() < 0.85
    for name, attribute in PHOTOGRAPHIC.items():
        shares = np.bincount(camera.codes[name], minlength=len(attribute.values)) / 800
        np.testing.assert_allclose(shares, attribute.weights, atol=0.08)


def test_development_at_high_quality_is_nearly_exact() -> None:
    ramp = np.broadcast_to(np.linspace(0, 1, 32, dtype=np.float32), (2, 3, 32, 32))
    fine, coarse = develop(ramp, [98, 10]).astype(float)
    exact = ramp[0].transpose(1, 2, 0) * 255
    assert np.abs(fine - exact).max() < 4
    assert np.abs(coarse - exact).mean() > 2 * np.abs(fine - exact).mean()
