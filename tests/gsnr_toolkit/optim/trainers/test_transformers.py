"""SAM in transformers' Trainer, against a loop written by hand, on padded batches of a tiny BERT."""

import copy
import warnings

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from transformers import BertConfig, BertForSequenceClassification, BertLMHeadModel, Trainer, TrainingArguments

from gsnr_toolkit import SAM, ProbeError
from gsnr_toolkit.errors import ProbeWarning
from tests.support.hand_loop import distance, recipes, sam_step_by_hand

OPTIONS = {"lr": 0.05, "weight_decay": 0.01}
RHO = 0.2
CONFIG = {
    "vocab_size": 20,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "max_position_embeddings": 12,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


@pytest.fixture(autouse=True)
def _fresh_state():
    for state in (AcceleratorState, GradientState, PartialState):
        state._shared_state.clear()
    yield
    for state in (AcceleratorState, GradientState, PartialState):
        state._shared_state.clear()


@pytest.fixture(scope="module")
def page():
    return recipes("transformers")


def make_net(tokens=False):
    torch.manual_seed(3)
    kind = BertLMHeadModel if tokens else BertForSequenceClassification
    return kind(BertConfig(**CONFIG, is_decoder=tokens)).double()


def make_data(tokens=False):
    generator = torch.Generator().manual_seed(0)
    rows = []
    for _ in range(24):
        ids = torch.randint(1, 20, (int(torch.randint(3, 12, (), generator=generator)),), generator=generator)
        rows.append({"input_ids": ids, "labels": ids if tokens else ids[0] % 2})
    return rows


def collate(rows):
    def pad(name, value):
        return torch.nn.utils.rnn.pad_sequence([row[name] for row in rows], batch_first=True, padding_value=value)

    ids = pad("input_ids", 0)
    labels = pad("labels", -100) if rows[0]["labels"].ndim else torch.stack([row["labels"] for row in rows])
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels}


def make_trainer(page, net, tmp_path, *, sam=None, tokens=False, **options):
    sam = sam or page["TrainerSAM"](net, torch.optim.AdamW, rho=RHO, **OPTIONS)
    arguments = {"max_steps": 6, "save_strategy": "no", "max_grad_norm": 0.0, **options}
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=4,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        train_sampling_strategy="sequential",
        logging_strategy="no",
        **arguments,
    )
    scheduler = torch.optim.lr_scheduler.StepLR(sam, 1, gamma=0.9)
    return page["SAMTrainer"](
        model=net, args=arguments, train_dataset=make_data(tokens), data_collator=collate, optimizers=(sam, scheduler)
    )


def fit(trainer, **options):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", category=ProbeWarning)
        return trainer.train(**options)


def by_hand(count=1, steps=6, *, autocast=False, clip=None, rho=RHO, tokens=False):
    net = make_net(tokens)
    base = torch.optim.AdamW(net.parameters(), **OPTIONS)
    scheduler = torch.optim.lr_scheduler.StepLR(base, 1, gamma=0.9)
    parts, rows = [], make_data(tokens)

    def loss_fn(part):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            return net(**part).loss * (share(part, parts) if tokens else 1)

    batches = [collate(rows[start : start + 4]) for start in range(0, 24, 4)]
    for step in range(steps):
        start = step * count % len(batches)
        parts[:] = batches[start : start + count]
        # The Trainer leaves the division by the number of micro-batches to a model that takes `num_items_in_batch`.
        # A language model divides by the tokens of all of them; a BERT that classifies sequences does not divide.
        sam_step_by_hand(net.parameters(), base, loss_fn, parts, rho=rho, clip=clip, weight=1)
        scheduler.step()
    return net


def share(part, parts):
    """What part of all predicted tokens lies in a micro-batch; the first one of a row is not predicted."""
    counts = [int((one["labels"][:, 1:] != -100).sum()) for one in (part, *parts)]
    return counts[0] / sum(counts[1:])


def assert_same(net, twin, plain, tolerance=1e-12):
    assert distance(net, twin) < tolerance
    assert distance(net, plain) > 10 * tolerance  # SAM differs from the base optimizer here


@pytest.mark.parametrize(("count", "clip"), [(1, None), (3, None), (1, 0.05), (3, 0.05)])
def test_the_recipe(page, tmp_path, count, clip):
    net = make_net()
    trainer = make_trainer(page, net, tmp_path, gradient_accumulation_steps=count, max_grad_norm=clip or 0.0)
    fit(trainer)
    assert_same(net, by_hand(count, clip=clip), by_hand(count, clip=clip, rho=0.0))
    assert trainer.state.global_step == trainer.optimizer.optimizer.steps == 6


def test_a_language_model_weighs_micro_batches_by_their_tokens(page, tmp_path):
    net = make_net(tokens=True)
    fit(make_trainer(page, net, tmp_path, tokens=True, gradient_accumulation_steps=3, max_grad_norm=0.05))
    twin = {"tokens": True, "clip": 0.05}
    # the model computes its loss in float32
    assert_same(net, by_hand(3, **twin), by_hand(3, rho=0.0, **twin), tolerance=1e-5)


@pytest.mark.parametrize("count", [1, 3])
def test_bf16(page, tmp_path, count):
    net = make_net()
    fit(make_trainer(page, net, tmp_path, gradient_accumulation_steps=count, bf16=True))
    # a last bit of a weight may round to another half-precision number, which Adam makes visible
    twin = by_hand(count, autocast=True)
    assert_same(net, twin, by_hand(count, autocast=True, rho=0.0), tolerance=1e-6)


@pytest.mark.parametrize("count", [1, 3])
def test_resuming_in_the_middle(page, tmp_path, count):
    saving = {"save_strategy": "steps", "save_steps": 3, "gradient_accumulation_steps": count}
    fit(make_trainer(page, make_net(), tmp_path, max_steps=3, **saving))
    net = make_net()
    trainer = make_trainer(page, net, tmp_path, **saving)
    fit(trainer, resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert_same(net, by_hand(count), by_hand(count, rho=0.0))
    assert trainer.optimizer.optimizer.steps == trainer.state.global_step == 6


def test_the_base_trainer_gives_an_error(page, tmp_path):
    net = make_net()
    sam = SAM(net, torch.optim.AdamW, rho=RHO, **OPTIONS)
    before = copy.deepcopy(net)
    trainer = make_trainer({**page, "SAMTrainer": Trainer}, net, tmp_path, sam=sam)
    with pytest.raises(ProbeError, match="expected a closure"):
        fit(trainer)
    assert distance(net, before) == 0
