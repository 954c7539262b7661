"""Fields of a batch that are no tensors: which are cut, which are shared, and which are refused."""

from collections import OrderedDict, UserDict, UserList, defaultdict, deque
from dataclasses import dataclass, field
from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from gsnr_toolkit import SAM, estimate_cor, estimate_gsnr
from gsnr_toolkit.errors import MixedSamplesError, ProbeError
from gsnr_toolkit.inputs.batches import batch_length, can_join, join_batches, map_tensors, take_rows, tensors_of
from gsnr_toolkit.inputs.fields import FieldWatch
from gsnr_toolkit.inputs.loaders import rebatch
from gsnr_toolkit.optim.step import sam_step

X = torch.arange(16.0).view(8, 2)


@pytest.mark.parametrize(
    ("value", "rows"),
    [
        (list("abcdefgh"), list("cd")),
        (tuple(range(8)), (2, 3)),
        (range(8), range(2, 4)),
        (np.arange(8) * 2, np.array([4, 6])),
        (UserList(range(8)), UserList([2, 3])),
        (deque(range(8)), deque([2, 3])),
        ([{"id": i} for i in range(8)], [{"id": 2}, {"id": 3}]),
        ([("a", "b")] * 8, [("a", "b")] * 2),
        ([tuple("abcdefgh"), tuple("ABCDEFGH")], [("c", "d"), ("C", "D")]),  # two words of each sample
        ({"deep": {"names": list("abcdefgh")}}, {"deep": {"names": ["c", "d"]}}),
    ],
)
def test_fields_are_cut_with_the_tensors(value, rows):
    found = take_rows((X, value), 2, 4)[1]
    np.testing.assert_equal(np.asarray(found) if isinstance(rows, np.ndarray) else found, rows)


@pytest.mark.parametrize(
    "value",
    ["train", 3, None, 2.5, np.float64(2), np.array(1), ["cat", "dog"], (224, 224), {"a": [1, 2]}, X.shape, b"x"],
)
def test_what_all_samples_share_stays_whole(value):
    once = take_rows({"x": X, "value": value}, 0, 2)  # as many rows as some of these have entries
    for batch in (once, take_rows(once, 0, 1), join_batches([take_rows(once, 0, 1)] * 2)):
        assert batch["value"] == value


def test_shared_arrays_stay_whole():
    once = take_rows((X, np.array([0.5, 0.25])), 0, 2)
    np.testing.assert_array_equal(take_rows(once, 1, 2)[1], [0.5, 0.25])


class _Encoding(UserDict):
    def __init__(self, data, encodings):
        super().__init__(data)
        self._encodings = encodings

    def __getattr__(self, name):
        try:
            return self.data[name]
        except KeyError:
            raise AttributeError(name) from None


@dataclass(frozen=True)
class _Sample:
    x: torch.Tensor
    names: list
    doubled: torch.Tensor = field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "doubled", self.x * 2)


def test_types_of_containers_are_kept():
    cut = take_rows(_Encoding({"x": X}, list("abcdefgh")), 2, 4)
    assert type(cut) is _Encoding
    assert cut._encodings == ["c", "d"]
    torch.testing.assert_close(cut.x, X[2:4])
    sample = take_rows(_Sample(X, list("abcdefgh")), 2, 4)
    assert type(sample) is _Sample
    assert sample.names == ["c", "d"]
    torch.testing.assert_close(sample.doubled, X[2:4] * 2)
    space = take_rows(SimpleNamespace(x=X, names=list("abcdefgh")), 2, 4)
    assert space.names == ["c", "d"]
    ordered = take_rows(OrderedDict(x=X, y=X), 0, 1)
    assert type(ordered) is OrderedDict
    default = take_rows(defaultdict(list, x=X), 0, 1)
    assert default["missing"] == []
    proxy = take_rows(MappingProxyType({"x": X}), 0, 1)
    assert type(proxy) is MappingProxyType


def test_outputs_of_transformers():
    transformers = pytest.importorskip("transformers")
    batch = transformers.BatchEncoding({"input_ids": X.long(), "labels": X[:, 0].long()})
    cut = take_rows(batch, 2, 5)
    assert type(cut) is transformers.BatchEncoding
    torch.testing.assert_close(cut.input_ids, cut["input_ids"])
    torch.testing.assert_close(cut.input_ids, X[2:5].long())
    output = transformers.modeling_outputs.SequenceClassifierOutput(logits=X)
    assert len(tensors_of(output)) == 1
    torch.testing.assert_close(take_rows(output, 2, 5).logits, X[2:5])


def test_a_container_that_cannot_be_made_again_is_refused():
    class Odd(dict):
        def __new__(cls, must):
            return super().__new__(cls)

        def __init__(self, must):
            super().__init__(must)

    with pytest.raises(ProbeError, match=r"containers that can be made again.*got Odd.*return a dict"):
        take_rows(Odd({"x": X}), 0, 1)


class _Frame:
    """A table with rows, as pandas has."""

    def __len__(self):
        return 8


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"x": X, "table": _Frame()}, r"can be cut by sample.*got a _Frame with 8 entries.*collate_fn"),
        ({"x": X, "meta": type("Meta", (), {})()}, None),
        ((X[:2], [["a", "b"], ["c", "d"]]), "either may be the 2 samples"),
        ((X[:2], (["a", "b"], "train")), "either may be the 2 samples"),
        ((X[:2], ([3, 4], "train")), "either may be the 2 samples"),
        ((X[:2], ([3, 4], None)), "either may be the 2 samples"),
        ((X, deque([1, 2])), "one entry per sample in a deque, got 2 for 8"),
    ],
)
def test_what_cannot_be_cut_is_refused(batch, message):
    if message is None:
        assert take_rows(batch, 0, 1)["meta"] is batch["meta"]
        batch["meta"].weights = torch.zeros(8)
        message = "got a Meta with 8 entries"
    with pytest.raises(ProbeError, match=message):
        take_rows(batch, 0, 1)


class _Slots:
    __slots__ = ("held",)

    def __init__(self, held):
        self.held = held


class _Holder:
    def __init__(self, **held):
        vars(self).update(held)


HIDDEN = [
    lambda values: _Slots(values),
    lambda values: _Holder(table={"weights": values}),
    lambda values: _Holder(inner=_Holder(deep=_Slots(values))),
    lambda values: _Holder(items=[1, (values, "x")]),
]


@pytest.mark.parametrize("hide", HIDDEN)
@pytest.mark.parametrize("values", [torch.zeros(8), list("abcdefgh"), np.zeros((8, 2))])
def test_values_of_samples_inside_other_objects_are_refused_wherever_they_are(hide, values):
    with pytest.raises(ProbeError, match=r"can be cut by sample.*got a _(Slots|Holder) with 8 entries"):
        take_rows({"x": X, "meta": hide(values)}, 0, 1)
    for other in ([1, 2, 3], torch.zeros(3), "abcdefgh"):
        batch = {"x": X, "meta": hide(other)}
        assert take_rows(batch, 0, 1)["meta"] is batch["meta"]


def test_objects_that_hold_each_other_are_looked_into_once():
    one, other = _Holder(), _Holder()
    one.other, other.one = other, one
    assert take_rows({"x": X, "meta": one}, 0, 1)["meta"] is one


def test_lists_of_different_lengths_are_one_per_sample():
    assert take_rows((X[:2], [["a", "b"], ["c"]]), 1, 2)[1] == [["c"]]


@pytest.mark.parametrize(
    ("batch", "remedy"),
    [
        ({"image": X, "boxes": [torch.zeros(i % 3 + 1, 4) for i in range(8)]}, r"shapes .*; pad samples.*lengths"),
        (([torch.zeros(3, 4, 4)] * 8, [{"labels": torch.zeros(i + 1)} for i in range(8)]), "; pad samples"),
        ((torch.zeros(37), torch.zeros(8), torch.zeros(8)), "; move tensors .* share .*; pad samples"),
        ((X, torch.tensor(3.0)), r"; move tensors that all samples share into the model or the loss_fn$"),
    ],
)
def test_ragged_batches_name_the_right_remedy(batch, remedy):
    with pytest.raises(ProbeError, match=remedy):
        batch_length(batch)


def test_a_short_last_batch_does_not_make_a_shared_list_a_field():
    watch = FieldWatch()
    classes = ["cat", "dog"]
    watch.see((X, classes), 8)
    last = watch.see((X[:2], list(classes)), 2)
    assert take_rows(last, 0, 1)[1] == classes
    with pytest.raises(ProbeError, match=r"the field '1'.*changes from batch to batch, of 2 entries for 8"):
        watch.see((X, ["cat", "fox"]), 8)


def test_a_field_must_stay_one():
    watch = FieldWatch()
    watch.see({"x": X[:2], "names": ["a", "b"]}, 2)
    with pytest.raises(ProbeError, match=r"'names' to have one entry per sample.*2 entries for 8 samples"):
        watch.see({"x": X, "names": ["a", "b"]}, 8)


def test_words_of_each_sample_stay_fields_in_a_short_batch():
    watch = FieldWatch()
    watch.see((X, [tuple("abcdefgh"), tuple("ABCDEFGH")]), 8)
    last = watch.see((X[:2], [("a", "b"), ("A", "B")]), 2)
    assert take_rows(last, 1, 2)[1] == [("b",), ("B",)]


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        ("train", "test", "'train' is 'test' elsewhere"),
        (["a"], ["b"], "'a' is 'b'"),
        (np.ones(3), np.zeros(3), "ndarray has"),
    ],
)
def test_what_differs_between_batches_is_not_joined(one, other, message):
    batches = [(X[:4], one), (X[4:], other)]
    assert not can_join(*batches)
    with pytest.raises(ProbeError, match=message):
        list(rebatch(batches, 8))


def test_fields_join():
    batches = [(X[:4], list("abcd"), np.arange(4), "train"), (X[4:], list("efgh"), np.arange(4, 8), "train")]
    assert can_join(*batches)
    joined = join_batches(batches)
    assert joined[1] == list("abcdefgh")
    np.testing.assert_array_equal(joined[2], np.arange(8))
    assert not can_join((X, list("abcdefgh")), (X, np.arange(8)))
    assert not can_join((X, np.arange(8)), (X, np.arange(8.0)))
    assert not can_join({"x": X}, {"y": X})


def test_names_of_batches_do_not_change():
    batch = {"x": X, "names": list("abcdefgh")}
    take_rows(batch, 0, 2)["names"].append("z")
    assert batch["names"] == list("abcdefgh")
    assert map_tensors(batch, lambda tensor: tensor)["names"] is batch["names"]


HEADS = ("a", "b")


class _TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(2, 1), nn.Linear(2, 1)

    def forward(self, x, names):
        return torch.stack([getattr(self, name)(row)[0] for row, name in zip(x, names, strict=True)])


def _by_name(model, batch):
    return (model(batch["x"], batch["names"]) - 1).square()


def _named(count=8):
    x = torch.randn(count, 2, generator=torch.Generator().manual_seed(0))
    return {"x": x, "names": [HEADS[i * 3 % 4 // 2] for i in range(count)]}


@pytest.mark.parametrize("sharpness", ["batch", "micro"])
@pytest.mark.parametrize("size", [1, 3])
def test_micro_batches_keep_each_sample_with_its_field(sharpness, size):
    batch, model, twin = _named(), _TwoHeads(), _TwoHeads()
    twin.load_state_dict(model.state_dict())
    optimizer = SAM(model, lr=0.1, rho=0.05)
    sam_step(model, batch, _by_name, optimizer, size, sharpness=sharpness)
    cuts = [range(i, min(i + size, 8)) for i in range(0, 8, size)] if sharpness == "micro" else [range(8)]
    total = [torch.zeros_like(param) for param in twin.parameters()]
    params = list(twin.parameters())
    for cut in cuts:
        rows = {"x": batch["x"][list(cut)], "names": [batch["names"][i] for i in cut]}
        grads = torch.autograd.grad(_by_name(twin, rows).mean(), params, allow_unused=True, materialize_grads=True)
        norm = torch.stack([grad.square().sum() for grad in grads]).sum().sqrt()
        steps = [0.05 * grad / norm for grad in grads]
        with torch.no_grad():
            for param, step in zip(params, steps, strict=True):
                param.add_(step)
        grads = torch.autograd.grad(_by_name(twin, rows).mean(), params, allow_unused=True, materialize_grads=True)
        with torch.no_grad():
            for param, step, sum_, grad in zip(params, steps, total, grads, strict=True):
                param.sub_(step)
                sum_.add_(grad * len(cut) / 8)
    for param, other, grad in zip(model.parameters(), params, total, strict=True):
        torch.testing.assert_close(param, other - 0.1 * grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("engine", ["auto", "loop"])
def test_a_field_that_does_not_come_in_the_batch_is_noticed(engine):
    scales = [1.0, 1.0, 1.0, 5.0]  # the first sample meets its own

    def loss(model, batch):
        kept = torch.tensor(scales[: len(batch[0])])
        return (model(batch[0])[:, 0] - batch[1]).square() * kept

    batches = [(torch.randn(4, 2), torch.randn(4)) for _ in range(4)]
    with pytest.raises(MixedSamplesError, match=r"alone for the last sample.*fields that do not come in the batch"):
        estimate_gsnr(nn.Linear(2, 1), batches, loss_fn=loss, engine=engine, progress=False)


def test_cor_regroups_fields():
    whole = _named(64)
    fours = [take_rows(whole, i, i + 4) for i in range(0, 64, 4)]
    eights = [take_rows(whole, i, i + 8) for i in range(0, 64, 8)]
    model = _TwoHeads()
    reports = [
        estimate_cor(model, batches, loss_fn=_by_name, batch_size=8, progress=False, engine="loop")
        for batches in (fours, eights)
    ]
    assert reports[0].total["gsnr"] == pytest.approx(reports[1].total["gsnr"], rel=1e-4)
    assert reports[0].cor == pytest.approx(reports[1].cor, rel=1e-4)


@pytest.mark.parametrize(
    "metadata",
    [[{"bbox": [1, 2, 3, 4]}] * 4, [(480, 640, 3, 1)] * 4, [{"hw": (480, 640, 3, 1)}] * 4],
    ids=["boxes", "sizes", "sizes in dicts"],
)
def test_sequences_of_numbers_in_the_metadata_of_samples_do_no_harm(metadata):
    """As many numbers as samples, by accident: the outer list has one entry per sample all the same."""
    batch = (torch.randn(4, 3), torch.arange(4) % 2, metadata)
    assert take_rows(batch, 1, 3)[2] == metadata[1:3]
