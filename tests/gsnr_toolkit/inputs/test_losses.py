from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gsnr_toolkit import estimate_cor
from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.inputs.losses import (
    binary_labels,
    check_labels,
    check_loss_shape,
    classification_loss,
    inferred_loss,
    logits_of,
    split_inputs,
)

LOGITS = torch.tensor([[0.3], [-2.0], [1.0]])
LABELS = torch.tensor([1, 0, 1])


@pytest.mark.parametrize("logits", [LOGITS, LOGITS[:, 0]])
@pytest.mark.parametrize("labels", [LABELS, LABELS[:, None], LABELS.float()])
def test_binary(logits, labels):
    expected = F.binary_cross_entropy_with_logits(LOGITS[:, 0], LABELS.float(), reduction="none")
    torch.testing.assert_close(classification_loss(logits, labels), expected)


def test_multi_class_with_indices_and_with_probabilities():
    logits, classes = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    expected = F.cross_entropy(logits, classes, reduction="none")
    torch.testing.assert_close(classification_loss(logits, classes), expected)
    torch.testing.assert_close(classification_loss(logits, F.one_hot(classes, 3).float()), expected)


def test_one_sample_with_one_logit_is_binary():
    assert classification_loss(torch.zeros(1, 1), torch.tensor([1])).shape == (1,)


def test_shapes_that_fit_nothing():
    with pytest.raises(ProbeError, match=r"logits \(2, 5, 7\) and labels \(2, 5\).*loss_fn"):
        classification_loss(torch.zeros(2, 5, 7), torch.zeros(2, 5))


def test_dict_batches_and_output_objects():
    class Model(nn.Module):
        def forward(self, pixel_values):
            return SimpleNamespace(logits=pixel_values.sum(1, keepdim=True))

    batch = {"pixel_values": torch.randn(3, 4), "labels": LABELS}
    expected = classification_loss(batch["pixel_values"].sum(1), LABELS)
    torch.testing.assert_close(inferred_loss(Model(), batch), expected)
    assert logits_of({"logits": LOGITS}) is LOGITS


def test_batches_without_labels():
    with pytest.raises(ProbeError, match=r"got keys \['x'\].*loss_fn"):
        split_inputs({"x": LOGITS})
    with pytest.raises(ProbeError, match="got Tensor"):
        split_inputs(LOGITS)
    with pytest.raises(ProbeError, match="got tuple"):
        split_inputs((LOGITS, LABELS, LABELS))


def test_output_without_logits():
    with pytest.raises(ProbeError, match=r"return logits.*got str"):
        logits_of("no")


@pytest.mark.parametrize("losses", [torch.tensor(0.5), torch.zeros(3, 2), torch.zeros(3, dtype=torch.long), 0.5])
def test_loss_must_be_one_number_per_sample(losses):
    with pytest.raises(ProbeError, match=r"shape \(3,\).*reduction='none'"):
        check_loss_shape(losses, 3)


def test_binary_labels_only():
    with pytest.raises(ProbeError, match=r"\[0, 2\].*two-class"):
        binary_labels((LOGITS, torch.tensor([0, 2, 0])))
    assert binary_labels((LOGITS, LABELS.float())).tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("labels", "outputs", "message"),
    [
        (torch.tensor([-1, 1]), 1, r"labels 0 and 1 .*values \[-1, 1\]; map them, with \(labels \+ 1\) // 2.*loss_fn"),
        (torch.tensor([1, 2]), 1, r"labels - 1 from 1 and 2"),
        (torch.tensor([0.5, float("nan")]), 1, "labels 0 and 1"),
        (torch.tensor([0.7, 1.0]), 2, r"class indices 0 to 1.*float32.*labels\.long\(\)"),
        (torch.tensor([0, 3]), 3, "class indices 0 to 2.*give the model 4 outputs"),
        (torch.tensor([-100, 1]), 3, r"class indices 0 to 2.*values \[-100, 1\]"),
        (torch.tensor([[1, 1, 0], [0, 1, 0]]), 3, "add up to 1 in each row.*several classes at once"),
        (torch.tensor([[1.5, -0.5]]), 2, "add up to 1"),
        (torch.arange(10) + 5, 1, "values 5 to 14"),
    ],
)
def test_labels_without_a_meaning_for_the_inferred_loss(labels, outputs, message):
    with pytest.raises(ProbeError, match=message):
        check_labels(labels, outputs)


@pytest.mark.parametrize(
    ("labels", "outputs"),
    [
        (LABELS, 1),
        (LABELS[:, None].float(), 1),
        (torch.tensor([0.0, 0.3]), 1),
        (torch.tensor([True, False]), 1),
        (torch.tensor([0, 2]), 3),
        (torch.tensor([[0.2, 0.8], [1.0, 0.0]]), 2),
        (torch.eye(2).half() * 0.999, 2),
    ],
)
def test_labels_with_a_meaning(labels, outputs):
    check_labels(labels, outputs)


def test_the_row_that_squeeze_takes_away():
    one = torch.tensor([1])
    torch.testing.assert_close(classification_loss(torch.tensor(0.3), one), classification_loss(LOGITS[:1], one))
    logits = torch.randn(1, 3)
    torch.testing.assert_close(classification_loss(logits[0], one), F.cross_entropy(logits, one, reduction="none"))
    with pytest.raises(ProbeError, match=r"single number for 3 samples; use squeeze\(-1\)"):
        classification_loss(torch.tensor(0.3), LABELS)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.int16, torch.bool])
@pytest.mark.parametrize("outputs", [1, 2])
def test_labels_of_any_integer_type_are_measured_alike(dtype, outputs):
    model, inputs, labels = nn.Linear(4, outputs), torch.randn(64, 4), torch.arange(64) % 2
    batches = [[(inputs, given)] for given in (labels, labels.to(dtype))]
    found, expected = (estimate_cor(model, batch, batch_size=8, progress=False).total["gsnr"] for batch in batches)
    assert found == expected
