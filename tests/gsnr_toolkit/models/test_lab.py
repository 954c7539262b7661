import pytest
import torch

from gsnr_toolkit import build_model
from gsnr_toolkit.models.lab import _resampled
from gsnr_toolkit.models.weights_files import WeightsError


def test_it_is_the_embedded_clip_cut_short():
    demo, lab = build_model("clip-demo").encoder, build_model("clip-lab").encoder
    assert len(lab.transformer.resblocks) == 6
    own, theirs = lab.state_dict(), demo.state_dict()
    assert own.keys() < theirs.keys()
    for name, tensor in own.items():
        if name != "positional_embedding":
            assert torch.equal(tensor, theirs[name]), name
    assert own["positional_embedding"].shape == (17, 128)
    assert torch.equal(own["positional_embedding"][0], theirs["positional_embedding"][0])
    assert build_model("clip-lab")(torch.zeros(2, 3, 32, 32)).shape == (2,)


def test_positions_that_lie_on_a_plane_stay_on_it():
    down, across = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    plane = torch.stack([down.flatten(), across.flatten()], 1)
    found = _resampled(torch.cat([torch.zeros(1, 2), plane]), 4)[1:].view(4, 4, 2)
    centres = (torch.arange(4) + 0.5) * 8 / 4 - 0.5
    inner = slice(1, 3)  # the border bends where the filter is cut, by a little
    torch.testing.assert_close(found[inner, inner, 0], centres[inner, None].expand(2, 2), rtol=0, atol=0.05)
    torch.testing.assert_close(found[inner, inner, 1], centres[None, inner].expand(2, 2), rtol=0, atol=0.05)


def test_weights():
    one, other = (build_model("clip-lab", weights="random", seed=seed).encoder.proj for seed in (0, 1))
    assert not torch.equal(one, other)
    assert build_model("clip-lab", weights="random").provenance["weights"] == "random"
    with pytest.raises(WeightsError, match="for clip-lab, got 'openai'; leave weights out"):
        build_model("clip-lab", weights="openai")
