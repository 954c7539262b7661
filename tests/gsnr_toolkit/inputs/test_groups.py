import pytest
import torch
from torch import nn

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.inputs.groups import assign_groups, block_path, find_blocks
from tests.support.cases import TinyViT, open_clip_tower


def _names(model):
    return [name for name, _ in model.named_parameters()]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("visual.transformer.resblocks.11.attn.in_proj_weight", "visual.transformer.resblocks.11"),  # open_clip
        ("blocks.3.mlp.fc1.weight", "blocks.3"),  # timm ViT
        ("layers.1.blocks.0.attn.qkv.weight", "layers.1.blocks.0"),  # timm Swin
        ("stages.2.blocks.1.conv_dw.weight", "stages.2.blocks.1"),  # timm ConvNeXt
        ("layer3.1.conv2.weight", "layer3.1"),  # ResNet
        ("encoder.layers.encoder_layer_4.ln_1.bias", "encoder.layers.encoder_layer_4"),  # torchvision ViT
        ("bert.encoder.layer.7.output.dense.weight", "bert.encoder.layer.7"),  # Hugging Face BERT
        ("transformer.h.2.attn.c_attn.weight", "transformer.h.2"),  # GPT-2
        ("model.layers.5.self_attn.q_proj.weight", "model.layers.5"),  # Llama
        ("encoder.block.1.layer.0.SelfAttention.q.weight", "encoder.block.1"),  # T5
    ],
)
def test_block_path_of_public_naming(name, path):
    assert block_path(name)[1] == path


@pytest.mark.parametrize("name", ["head.weight", "patch_embed.proj.weight", "logit_scale", "0.weight"])
def test_no_block(name):
    assert block_path(name) is None


@pytest.mark.parametrize("make", [TinyViT, open_clip_tower])
@pytest.mark.parametrize("groups", ["block", "module", "parameter"])
def test_every_parameter_is_in_exactly_one_group(make, groups):
    model = make()
    assigned = assign_groups(model, _names(model), groups)
    assert list(assigned) == _names(model)
    depths = {group.name: group.depth for group in assigned.values()}
    assert len(set(depths.values())) == len(depths)


def test_stem_blocks_head_in_order():
    model = TinyViT()
    assigned = assign_groups(model, _names(model))
    assert assigned["cls_token"].name == assigned["pos_embed"].name == assigned["patch_embed.weight"].name == "stem"
    assert assigned["blocks.1.qkv.bias"] == assigned["blocks.1.mlp.0.weight"]
    assert assigned["blocks.1.qkv.bias"].name == "block 2"
    assert assigned["norm.weight"].name == assigned["head.weight"].name == "head"
    order = sorted({(group.depth, group.name) for group in assigned.values()})
    assert [name for _, name in order] == ["stem", "block 1", "block 2", "head"]


def test_open_clip_projection_belongs_to_the_head():
    model = open_clip_tower()
    assigned = assign_groups(model, _names(model))
    assert assigned["0.class_embedding"].name == "stem"
    assert assigned["0.proj"].name == assigned["0.ln_post.weight"].name == "head"


def test_two_stacks_keep_their_names_apart():
    model = nn.ModuleDict(
        {tower: nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(2, 2)])}) for tower in ("image", "text")}
    )
    assert find_blocks(model) == {"image.blocks.0": "image block 1", "text.blocks.0": "text block 1"}


def test_parameters_of_a_stage_join_its_first_block():
    class Staged(nn.Module):
        def __init__(self):
            super().__init__()
            block = lambda: nn.ModuleDict({"fc": nn.Linear(2, 2)})  # noqa: E731
            stage = lambda: nn.ModuleDict(  # noqa: E731
                {"downsample": nn.Linear(2, 2), "blocks": nn.ModuleList([block(), block()])}
            )
            self.stages = nn.ModuleList([stage(), stage()])
            self.head = nn.Linear(2, 1)

    model = Staged()
    assigned = assign_groups(model, _names(model))
    assert assigned["stages.1.downsample.weight"].name == assigned["stages.1.blocks.0.fc.weight"].name == "block 3"


def test_a_model_without_blocks_is_grouped_by_its_children():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    model.extra = nn.Linear(1, 1)
    model.scale = nn.Parameter(torch.ones(1))
    assigned = assign_groups(model, _names(model))
    assert {group.name for group in assigned.values()} == {"module 0", "module 1", "extra", "(root)"}


def test_a_function_of_the_name():
    model = TinyViT()
    assigned = assign_groups(model, _names(model), lambda name: "norms" if "norm" in name else "rest")
    assert assigned["blocks.0.norm1.weight"].name == "norms"
    assert {group.name for group in assigned.values()} == {"norms", "rest"}


def test_wrong_groups_say_what_to_do():
    model = TinyViT()
    with pytest.raises(ProbeError, match=r"'block', 'module', 'parameter' or a function.*got 'layer'"):
        assign_groups(model, _names(model), "layer")
    with pytest.raises(ProbeError, match=r"return a string.*'cls_token', None.*'other'"):
        assign_groups(model, _names(model), lambda name: None)


@pytest.mark.parametrize("groups", ["block", "module", lambda _: "total"])
def test_total_is_the_name_of_the_whole_model(groups):
    model = nn.ModuleDict({"total": nn.Linear(1, 1)})
    with pytest.raises(ProbeError, match=r"other than 'total'.*got it for 'total.weight'"):
        assign_groups(model, ["total.weight"], groups)
