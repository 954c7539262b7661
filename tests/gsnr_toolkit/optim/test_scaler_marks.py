"""A refused `scaler.step(optimizer)` leaves nothing on the optimizer that a right step would meet."""

import pytest
import torch

from gsnr_toolkit import SAM, ProbeError
from tests.support.sam_reference import bits, losses, make_batch, make_model


@pytest.mark.parametrize("with_closure", [False, True])
def test_a_right_step_follows_a_refused_one(with_closure):
    results = []
    for wrong in (False, True):
        model, scaler = make_model(), torch.amp.GradScaler("cpu")
        optimizer = SAM(model, lr=0.1)

        def back(model=model, scaler=scaler):
            loss = losses(model, make_batch()).mean()
            scaler.scale(loss).backward()
            return loss

        if wrong:
            back()
            with pytest.raises(ProbeError, match="scaler=scaler"):
                scaler.step(optimizer, *([back] if with_closure else []))
            scaler.update()
            optimizer.zero_grad()
            assert not {"found_inf", "grad_scale"} & set(vars(optimizer))
        optimizer.step(back, scaler=scaler)
        scaler.update()
        results.append(bits(model))
    torch.testing.assert_close(*results, rtol=0, atol=0)
