"""The zoo's models of text and sound: transformers, open_clip's text tower and CoCa; one loss per sequence."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.support.cases import Case

VOCABULARY = 13
SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
LANGUAGE = {**SIZES, "vocab_size": VOCABULARY, "max_position_embeddings": 16}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
NO_SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def hugging(name: str, config: str, **options: Any) -> nn.Module:
    """Build a transformers model with random weights from class and configuration."""
    import transformers

    return getattr(transformers, name)(getattr(transformers, config)(**options))


def tokens(length: int = 7) -> Tensor:
    """Five random sequences without padding."""
    return torch.randint(3, VOCABULARY, (5, length))


def labels() -> Tensor:
    """Classes of the five samples."""
    return torch.tensor([0, 1, 2, 0, 1])


def padded() -> dict[str, Tensor]:
    """Five sequences of different lengths with their attention mask, and labels."""
    mask = (torch.arange(7) < torch.tensor([7, 4, 6, 3, 7])[:, None]).long()
    return {"input_ids": tokens() * mask, "attention_mask": mask, "labels": labels()}


def causal_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Mean cross-entropy of the next token, per sequence."""
    logits = model(input_ids=batch["tokens"][:, :-1], use_cache=False).logits
    return F.cross_entropy(logits.transpose(1, 2), batch["tokens"][:, 1:], reduction="none").mean(1)


def translation_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Mean cross-entropy of the target's next token, per pair of sequences."""
    target = batch["target"]
    logits = model(input_ids=batch["source"], decoder_input_ids=target[:, :-1], use_cache=False).logits
    return F.cross_entropy(logits.transpose(1, 2), target[:, 1:], reduction="none").mean(1)


def caption_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """CoCa: cross-entropy of the caption, and the distance of its scaled similarity to the image from one."""
    out = model(batch["image"], batch["text"])
    caption = F.cross_entropy(out["logits"].transpose(1, 2), out["labels"], reduction="none").mean(1)
    similarity = (out["image_features"] * out["text_features"]).sum(1)
    return caption + F.softplus(-out["logit_scale"] * similarity)


def clip_text(**options: Any) -> nn.Module:
    """open_clip's text tower with a head."""
    from open_clip.transformer import TextTransformer

    sizes = {"context_length": 7, "vocab_size": VOCABULARY, "width": 16, "heads": 2, "layers": 2, "mlp_ratio": 2.0}
    return nn.Sequential(TextTransformer(**sizes, output_dim=8, **options), nn.Linear(8, 3))


def coca() -> nn.Module:
    """open_clip's CoCa: attentional pooling, a text tower with a class token, a cross-attention decoder."""
    from open_clip.coca_model import CoCa

    text = {"context_length": 7, "vocab_size": VOCABULARY, "width": 16, "heads": 2, "layers": 2, "embed_cls": True}
    vision = {"image_size": 16, "patch_size": 4, "width": 16, "head_width": 8, "layers": 2, "attentional_pool": True}
    vision |= {"attn_pooler_queries": 3, "attn_pooler_heads": 2, "output_tokens": True}
    decoder = {"context_length": 6, "vocab_size": VOCABULARY, "width": 16, "heads": 2, "layers": 1}
    model = CoCa(16, decoder, {**text, "output_tokens": True}, vision, init_logit_scale=0.5)
    nn.init.normal_(model.text_decoder.text_projection, std=0.25)  # the class leaves it uninitialised
    return model


def text_classes() -> tuple[Tensor, Tensor]:
    """Token sequences with labels."""
    return tokens(), labels()


def pixels() -> dict[str, Tensor]:
    """Five images under the keyword that transformers expects."""
    return {"pixel_values": torch.randn(5, 3, 16, 16), "labels": labels()}


def pooled_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Cross-entropy of the pooled output's first three entries, for towers without a head."""
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    return F.cross_entropy(model(**inputs).pooler_output[:, :3], batch["labels"], reduction="none")


def wav2vec2() -> nn.Module:
    """Convolutions on the waveform, a weight-normalised positional convolution, two transformer blocks."""
    sound = {"conv_dim": (8, 8), "conv_stride": (4, 2), "conv_kernel": (8, 3), "num_conv_pos_embeddings": 4}
    still = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "feat_proj_dropout": 0.0}
    sound |= {"num_conv_pos_embedding_groups": 2, "classifier_proj_size": 8, "layerdrop": 0.0, "mask_time_prob": 0.0}
    return hugging(
        "Wav2Vec2ForSequenceClassification",
        "Wav2Vec2Config",
        vocab_size=VOCABULARY,
        num_labels=3,
        **SIZES,
        **sound,
        **still,
    )


OPEN_CLIP_TEXT: dict[str, Case] = {
    "open_clip text tower": Case(clip_text, text_classes),
    "open_clip CoCa": Case(coca, lambda: {"image": torch.randn(5, 3, 16, 16), "text": tokens()}, caption_loss),
}

TRANSFORMERS: dict[str, Case] = {
    "transformers BERT": Case(
        lambda: hugging("BertForSequenceClassification", "BertConfig", num_labels=3, **LANGUAGE, **NO_DROPOUT), padded
    ),
    "transformers GPT-2, tied": Case(
        lambda: hugging(
            "GPT2LMHeadModel",
            "GPT2Config",
            vocab_size=VOCABULARY,
            n_positions=8,
            n_embd=16,
            n_layer=2,
            n_head=2,
            bos_token_id=1,
            eos_token_id=2,
        ),
        lambda: {"tokens": tokens()},
        causal_loss,
    ),
    "transformers T5, tied": Case(
        lambda: hugging(
            "T5ForConditionalGeneration",
            "T5Config",
            vocab_size=VOCABULARY,
            d_model=16,
            d_kv=8,
            d_ff=24,
            num_layers=2,
            num_heads=2,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
            decoder_start_token_id=0,
        ),
        lambda: {"source": tokens(9), "target": tokens(6)},
        translation_loss,
    ),
    "transformers Llama": Case(
        lambda: hugging("LlamaForCausalLM", "LlamaConfig", num_key_value_heads=1, **LANGUAGE, **NO_SPECIAL),
        lambda: {"tokens": tokens()},
        causal_loss,
    ),
    "transformers Qwen3": Case(
        lambda: hugging("Qwen3ForCausalLM", "Qwen3Config", num_key_value_heads=1, head_dim=8, **LANGUAGE, **NO_SPECIAL),
        lambda: {"tokens": tokens()},
        causal_loss,
    ),
    "transformers Mixtral": Case(
        lambda: hugging(
            "MixtralForCausalLM",
            "MixtralConfig",
            num_key_value_heads=1,
            num_local_experts=3,
            **LANGUAGE,
            **NO_SPECIAL,
            experts_implementation="eager",  # the grouped matmul has no float64
        ),
        lambda: {"tokens": tokens()},
        causal_loss,
    ),
    "transformers Mamba": Case(
        lambda: hugging(
            "MambaForCausalLM",
            "MambaConfig",
            vocab_size=VOCABULARY,
            hidden_size=16,
            state_size=4,
            num_hidden_layers=2,
            use_mambapy=False,
        ),
        lambda: {"tokens": tokens()},
        causal_loss,
    ),
    "transformers ViT": Case(
        lambda: hugging(
            "ViTForImageClassification", "ViTConfig", num_labels=3, image_size=16, patch_size=4, **SIZES, **NO_DROPOUT
        ),
        pixels,
    ),
    "transformers CLIP vision": Case(
        lambda: hugging("CLIPVisionModel", "CLIPVisionConfig", image_size=16, patch_size=4, **SIZES),
        pixels,
        pooled_loss,
    ),
    "transformers CLIP text": Case(
        lambda: hugging("CLIPTextModel", "CLIPTextConfig", **LANGUAGE, **NO_SPECIAL),
        lambda: {"input_ids": tokens(), "labels": labels()},
        pooled_loss,
    ),
    "transformers Wav2Vec2": Case(wav2vec2, lambda: {"input_values": torch.randn(5, 200), "labels": labels()}),
}
