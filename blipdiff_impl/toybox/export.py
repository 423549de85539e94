"""Puts the trained parts together into `toybox.safetensors`, in the pack's own single-file format."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ..blip_diffusion.checkpoints import PARTS, open_checkpoint, write_single_file
from ..errors import SubjectError
from ..toy_world.bank import CACHE
from ..toy_world.world import vocabulary
from .model import CONFIG
from .train_decoder import CHECKPOINT as DECODER_CHECKPOINT
from .train_decoder import averaged_decoder
from .train_diffusion import ToyDiffusion, averaged_model
from .train_scenes import averaged_unet
from .train_subject import averaged_subject_encoder
from .train_vae import build_vae

WEIGHT_FILE = Path(__file__).with_name("toybox.safetensors")


def export(path: Path = WEIGHT_FILE) -> None:
    """Write the averaged weights of the last checkpoints, in float16."""
    write_single_file(path, parts(averaged_model(), best_vae()), CONFIG, vocabulary(), torch.float16, overwrite=True)


def parts(model: ToyDiffusion, vae: nn.Module) -> dict[str, dict[str, Tensor]]:
    """Canonical tensors of every part."""
    encoder, _ = averaged_subject_encoder()
    encoder.qformer, encoder.proj_layer = model.qformer, model.projection
    return {
        "subject_encoder": encoder.canonical_state_dict(),
        "text_encoder": _text_encoder(model),
        "unet": model.unet.state_dict(),
        "vae": vae.state_dict(),
    }


def best_vae() -> nn.Module:
    """The folded autoencoder, with the decoder that was trained further where there is one."""
    folded, decoder = CACHE / "vae_folded.pt", CACHE / "vae_decoder.pt"
    vae = build_vae()
    vae.load_state_dict(torch.load(folded, weights_only=True))
    if decoder.exists():
        average = torch.load(decoder, weights_only=True)["optimiser"]["average"]
        vae.load_state_dict(vae.state_dict() | average)
    return vae.eval()


def renew(path: Path = WEIGHT_FILE) -> None:
    """Put what `scenes` and `large_decoder` trained into the embedded model; everything else in it stays."""
    checkpoint = open_checkpoint("toybox")
    found = {name: dict(checkpoint.part(name)) for name in PARTS}
    found["unet"] |= averaged_unet()
    if DECODER_CHECKPOINT.exists():
        found["vae"] |= averaged_decoder()
    write_single_file(path, found, CONFIG, vocabulary(), torch.float16, overwrite=True)


def _text_encoder(model: ToyDiffusion) -> dict[str, Tensor]:
    """The text encoder with its full table: words the toy world does not use are zero."""
    tensors = {
        f"text_model.{name.removeprefix('text_model.')}": t for name, t in model.text_encoder.state_dict().items()
    }
    key = "text_model.embeddings.token_embedding.weight"
    table = torch.zeros(CONFIG.text_encoder.vocab_size, CONFIG.text_encoder.hidden_size)
    for token, row in model.row_of.items():
        if token >= 0:
            table[token] = tensors[key][row]
    return tensors | {key: table}


def adopt(trained: Path, path: Path = WEIGHT_FILE) -> None:
    """Make a file that `pretrain --toybox` wrote the embedded model.

    Words of captions, which only the first stage needs, are cut off: the subject encoder is told a kind, and what it
    does not know should be unknown to it.

    Args:
        trained: `OUT/stage2/model.safetensors`.

    Raises:
        SubjectError: a model whose word pieces do not begin with the toy world's.
    """
    checkpoint, words = open_checkpoint(trained), vocabulary()
    if checkpoint.vocabulary[: len(words)] != words:
        raise SubjectError(f"{trained} was not trained on the toy world: its word pieces are {checkpoint.vocabulary}.")
    found = {name: dict(checkpoint.part(name)) for name in PARTS}
    encoder = found["subject_encoder"]
    (table,) = (name for name in encoder if name.endswith("word_embeddings.weight"))
    encoder[table] = encoder[table][: len(words)].clone()
    write_single_file(path, found, CONFIG, words, torch.float16, overwrite=True)
