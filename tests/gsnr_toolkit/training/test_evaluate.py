import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score
from torch import nn

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.training.evaluate import evaluate


def _batches(count=60, size=7):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, 3, generator=generator)
    labels = (inputs[:, 0] + torch.randn(count, generator=generator) > 0).long()
    return [(inputs[i : i + size], labels[i : i + size]) for i in range(0, count, size)]


class _Squeezed(nn.Linear):
    def forward(self, inputs):
        return super().forward(inputs).squeeze(-1)


@pytest.mark.parametrize("model", [nn.Linear(3, 1), _Squeezed(3, 1), nn.Linear(3, 2)], ids=["(N,1)", "(N,)", "(N,2)"])
def test_auc_and_loss_are_those_of_scikit_learn(model):
    batches = _batches()
    found = evaluate(model, batches)
    labels = torch.cat([labels for _, labels in batches]).numpy()
    logits = model(torch.cat([inputs for inputs, _ in batches])).detach().reshape(60, -1).double()
    scores = (logits[:, -1] - logits[:, 0] if logits.shape[1] == 2 else logits[:, 0]).numpy()
    assert found.auc.value == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert found.loss == pytest.approx(log_loss(labels, 1 / (1 + np.exp(-scores))), rel=1e-5)
    assert found.logit_std == pytest.approx(scores.std(), rel=1e-5)
    assert found.auc.low < found.auc.value < found.auc.high


def test_the_model_is_evaluated_in_eval_mode_and_left_in_its_own():
    model = nn.Sequential(nn.Dropout(0.9), nn.Linear(3, 1))
    first, second = evaluate(model, _batches()), evaluate(model, _batches())
    assert model.training
    np.testing.assert_array_equal(first.scores, second.scores)


def test_a_score_that_is_not_finite_gives_no_auc():
    model = nn.Linear(3, 1)
    nn.init.constant_(model.weight, float("nan"))
    found = evaluate(model, _batches())
    assert np.isnan(found.auc.value)
    assert found.auc.count == 60


def test_one_class_or_three_outputs_are_refused():
    with pytest.raises(ProbeError, match=r"got only the labels \[1\]"):
        evaluate(nn.Linear(3, 1), [(torch.zeros(2, 3), torch.ones(2, dtype=torch.long))])
    with pytest.raises(ProbeError, match="got 3; build the model with num_outputs=1"):
        evaluate(nn.Linear(3, 3), _batches())
