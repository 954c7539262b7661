"""Mini-batches of COR: smaller ones than the loader's are told."""

import pytest
import torch
from torch import nn

from gsnr_toolkit import estimate_cor


@pytest.mark.parametrize(
    ("theirs", "size", "told"), [(64, None, True), (16, None, False), (64, 16, False), (8, 16, False)]
)
def test_a_lowered_mini_batch_is_told_in_the_notes_and_the_verdict(theirs, size, told):
    inputs = torch.randn(128, 4)
    labels = (inputs[:, 0] > 0).long()
    loader = [(inputs[i : i + theirs], labels[i : i + theirs]) for i in range(0, 128, theirs)]
    report = estimate_cor(nn.Linear(4, 1), loader, batch_size=size, progress=False)
    notes = [note for note in report.notes if "mini-batches of 16 samples, not of the loader's 64" in note]
    assert bool(notes) == told
    assert report.verdict.endswith("COR is that of mini-batches of 16 samples, not of the loader's 64.") == told
