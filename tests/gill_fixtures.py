"""A small random GILL: an OPT in a folder of transformers with a tokenizer, learned parts, a picture encoder; and files
in the published layout that take no room on the disk."""

import dataclasses
import json

import torch

from blipdiff_impl.gill.checkpoint import save_gill
from blipdiff_impl.gill.config import GILLConfig, MapperConfig
from blipdiff_impl.gill.parts import LearnedParts

WORDS = [" a", " cat", " dog", " in", " snow", "the", " same", " Q", "Q:", "A:", " picture"]
# Every number differs from every other, so that a mix-up of two of them shows.
SMALL = GILLConfig(
    language_width=24,
    vision_width=20,
    visual_tokens=3,
    retrieval_width=10,
    first_image_token=300,
    decision=True,
    mapper=MapperConfig(width=16, heads=4, encoder_layers=2, decoder_layers=3, feed_forward=28, queries=77,
                        output_width=32),
)  # fmt: skip
ARGS = {
    "opt_version": "facebook/opt-6.7b", "freeze_lm": True, "visual_encoder": "openai/clip-vit-large-patch14",
    "freeze_vm": True, "n_visual_tokens": 4, "ret_emb_dim": 256, "gen_emb_dim": 768, "text_emb_layers": [-1],
    "text_fc_mode": "gill_mapper", "ret_text_fc_mode": "linear", "num_tokens": 8, "num_clip_tokens": 77,
    "share_ret_gen": True, "norm_image_embed": "none", "retrieval_token_idx": list(range(50266, 50274)),
    "gen_token_idx": list(range(50266, 50274)),
}  # fmt: skip


def byte_letters():
    """Byte-level pairs write every byte as a letter; sorted as transformers' own table is."""
    from tokenizers import pre_tokenizers

    return sorted(pre_tokenizers.ByteLevel.alphabet())


def write_tokenizer(folder, words=WORDS):
    """vocab.json and merges.txt: four special words at OPT's ids, all bytes, and pairs that lead to `words`."""
    vocabulary = {name: number for number, name in enumerate(["<s>", "<pad>", "</s>", "<unk>", *byte_letters()])}
    merges = []
    for word in words:
        letters = list(word.replace(" ", "Ġ"))
        while len(letters) > 1:
            pair = (letters[0], letters[1])
            letters[:2] = ["".join(pair)]
            if pair not in merges:
                merges.append(pair)
                vocabulary[letters[0]] = len(vocabulary)
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), encoding="utf-8")
    return len(vocabulary)


def tiny_opt(seed=0, width=24, inner=24, layers=2, before=True, positions=64, words=300):
    """transformers' own class; `inner` other than `width`, and norms behind, make the odd shape of OPT-350m."""
    from transformers import OPTConfig, OPTForCausalLM

    torch.manual_seed(seed)
    config = OPTConfig(
        vocab_size=words, hidden_size=inner, word_embed_proj_dim=width, num_hidden_layers=layers, ffn_dim=40,
        num_attention_heads=4, max_position_embeddings=positions, do_layer_norm_before=before, dropout=0.0,
        init_std=0.5,
    )  # fmt: skip
    return OPTForCausalLM(config).eval().requires_grad_(False)


def opt_folder(folder, **sizes):
    folder.mkdir(parents=True, exist_ok=True)
    words = write_tokenizer(folder)
    assert words <= 300
    tiny_opt(**sizes).save_pretrained(folder)
    return folder


def random_parts(seed=1, config=SMALL):
    torch.manual_seed(seed)
    return LearnedParts(config).eval().requires_grad_(False)


def tiny_clip(seed=2, width=20):
    from transformers import CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(seed)
    config = CLIPVisionConfig(hidden_size=width, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
                              image_size=28, patch_size=7, initializer_range=0.5)  # fmt: skip
    return CLIPVisionModel(config).eval().requires_grad_(False)


SEES = {"hidden_size": 20, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28,
        "patch_size": 7, "projection_dim": 12}  # fmt: skip


def host_clip_vision(comfy, **changes):
    """The host's own class by its configuration."""
    config = {**SEES, "model_type": "clip_vision_model", "hidden_act": "quick_gelu", "num_channels": 3, **changes}
    return comfy.module("nodes.host.clip_vision").clip_vision_of(config)


def host_vision(comfy, seed=3):
    """The host's CLIP_VISION around the weights of transformers' class, and that."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(seed)
    theirs = CLIPVisionModelWithProjection(CLIPVisionConfig(**SEES, initializer_range=0.5)).eval()
    theirs = theirs.half().float()  # the host keeps it in 16 bit
    ours = host_clip_vision(comfy)
    missing, unexpected = ours.load_sd(theirs.state_dict())
    assert not [name for name in missing if "position_ids" not in name] and not unexpected
    ours.model.float()
    return ours, theirs


def host_gill(comfy, clip):
    """models/gill as a user fills it, for the text encoder of a CLIP; the CLIP_VISION that belongs to it."""
    root = comfy.module("nodes.host.folders")._roots("gill")[0]
    width = clip.cond_stage_model.clip_l.transformer.text_model.final_layer_norm.weight.shape[0]
    opt_folder(root / "tiny-opt", positions=96)
    with torch.inference_mode(False):
        save_gill(random_parts(config=with_mapper(output_width=width)), root / "tiny.safetensors", torch.float32,
                  overwrite=True)  # fmt: skip
    return host_vision(comfy)[0]


def photo(seed=0, height=40, width=30):
    return torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(seed))


def with_mapper(config=SMALL, **sizes):
    return dataclasses.replace(config, mapper=dataclasses.replace(config.mapper, **sizes))


def released_shapes(prefix="model."):
    """Every tensor of the published pretrained_ckpt.pth.tar, as its description lists them."""
    width, ff = 512, 2048
    attention = {
        "in_proj_weight": (3 * width, width), "in_proj_bias": (3 * width,), "out_proj.weight": (width, width),
        "out_proj.bias": (width,),
    }  # fmt: skip
    forward = {
        "linear1.weight": (ff, width),
        "linear1.bias": (ff,),
        "linear2.weight": (width, ff),
        "linear2.bias": (width,),
    }
    mapper = {"fc.weight": (width, 4096), "fc.bias": (width,), "query_embs": (1, 77, width),
              "model.weight": (768, width), "model.bias": (768,)}  # fmt: skip
    for stack, attentions, norms in (("encoder", ("self_attn",), 2), ("decoder", ("self_attn", "multihead_attn"), 3)):
        for i in range(4):
            layer = f"tfm.{stack}.layers.{i}."
            for name in attentions:
                mapper |= {f"{layer}{name}.{key}": shape for key, shape in attention.items()}
            mapper |= {f"{layer}{key}": shape for key, shape in forward.items()}
            for n in range(1, norms + 1):
                mapper |= {f"{layer}norm{n}.weight": (width,), f"{layer}norm{n}.bias": (width,)}
        mapper |= {f"tfm.{stack}.norm.weight": (width,), f"tfm.{stack}.norm.bias": (width,)}
    shapes = {
        "logit_scale": (), "input_embeddings.weight": (8, 4096), "visual_embeddings.weight": (16384, 1024),
        "visual_embeddings.bias": (16384,), "visual_fc.weight": (256, 1024), "visual_fc.bias": (256,),
        "ret_text_hidden_fcs.0.model.weight": (256, 4096), "ret_text_hidden_fcs.0.model.bias": (256,),
        **{f"gen_text_hidden_fcs.0.{name}": shape for name, shape in mapper.items()},
    }  # fmt: skip
    return {f"{prefix}{name}": shape for name, shape in shapes.items()}
