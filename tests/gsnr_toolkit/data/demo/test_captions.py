from __future__ import annotations

import numpy as np
import pytest

from gsnr_toolkit.data.demo.attributes import ATTRIBUTES
from gsnr_toolkit.data.demo.camera import PHOTOGRAPHIC
from gsnr_toolkit.data.demo.captions import CONTEXT_LENGTH, END, START, captions, prompt, tokenize
from gsnr_toolkit.data.demo.pairs import real_faces


@pytest.fixture(scope="module")
def codes() -> dict[str, np.ndarray]:
    return real_faces(range(60))[1]


def test_a_full_caption_names_what_is_visible(codes: dict) -> None:
    lines = captions(codes, np.random.default_rng(0), semantic=1.0, colors=1.0, photographic=1.0)
    for row, line in enumerate(lines):
        expression = ATTRIBUTES["expression"].values[codes["expression"][row]]
        assert f"a {expression} face" in line
        sunglasses = codes["glasses"][row] == 2
        assert (" eyes" in line) == (not sunglasses)
        assert ("grainy" in line) == (codes["grain"][row] == 1)


def test_captions_are_random_subsets(codes: dict) -> None:
    first, second, again = (
        captions(codes, np.random.default_rng(seed), semantic=0.5, photographic=0.2) for seed in (0, 1, 0)
    )
    assert first == again
    assert sum(a != b for a, b in zip(first, second, strict=True)) > 50


def test_every_caption_fits_and_every_prompt_is_known(codes: dict) -> None:
    longest = tokenize(captions(codes, np.random.default_rng(0), semantic=1.0, colors=1.0, photographic=1.0))
    assert longest.shape == (60, CONTEXT_LENGTH)
    assert ((longest == END).sum(axis=1) == 1).all()
    assert (longest[:, 0] == START).all()
    prompts = [
        prompt(name, value) for name, attribute in {**ATTRIBUTES, **PHOTOGRAPHIC}.items() for value in attribute.values
    ]
    assert len(np.unique(tokenize(prompts), axis=0)) == len(prompts)


def test_an_unknown_word_is_named() -> None:
    with pytest.raises(ValueError, match="expected known words in 'a photo of a cat', got 'cat'"):
        tokenize(["a photo of a cat"])
