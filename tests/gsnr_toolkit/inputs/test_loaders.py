import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gsnr_toolkit.inputs.loaders import rebatch


@settings(deadline=None)
@given(lengths=st.lists(st.integers(1, 7), min_size=1, max_size=6), size=st.integers(1, 9))
def test_rebatch_keeps_every_row_in_order(lengths, size):
    rows = torch.arange(float(sum(lengths)))
    batches = list(rebatch([(part, -part) for part in rows.split(lengths)], size))
    assert [len(batch[0]) for batch in batches[:-1]] == [size] * (len(batches) - 1)
    torch.testing.assert_close(torch.cat([batch[0] for batch in batches]), rows)
    torch.testing.assert_close(torch.cat([batch[1] for batch in batches]), -rows)


def test_batches_of_the_right_size_pass_untouched():
    batches = [(torch.zeros(4, 3), torch.zeros(4)), (torch.zeros(4, 9), torch.zeros(4))]  # padded differently
    assert all(a is b for a, b in zip(rebatch(batches, 4), batches, strict=True))
