"""The subject path at released size against diffusers' own BLIP-Diffusion classes, random weights, float32.

Tolerance 1e-4 relative (Frobenius): both sides compute in float32 with other attention kernels and matrix layouts;
over 35 layers that gives about 1e-6, while any wrong epsilon, activation, mask or key order gives 1e-3 and more.
"""

import subprocess
import sys

import pytest
import torch
from reference.run import run_reference
from reference.seeded import seeded_like
from safetensors.torch import load_file

from blipdiff_impl.blip_diffusion.config import RELEASED
from blipdiff_impl.blip_diffusion.subject import Subject
from blipdiff_impl.blip_diffusion.subject_module import SubjectEncoderModule
from blipdiff_impl.blip_diffusion.text import encode_subject
from blipdiff_impl.prompts.rows import compose
from blipdiff_impl.prompts.tokenizers import WordPieceTokenizer, bert_word_pieces
from blipdiff_impl.stable_diffusion.text_encoder import TextEncoder

TOLERANCE = 1e-4


def relative_error(ours: torch.Tensor, reference: torch.Tensor) -> float:
    assert ours.shape == reference.shape
    return float((ours - reference).norm() / reference.norm())


def released_subject_encoder() -> SubjectEncoderModule:
    with torch.device("meta"):
        shapes = {n: t.shape for n, t in SubjectEncoderModule(RELEASED).canonical_state_dict().items()}
    return SubjectEncoderModule.from_canonical(RELEASED, seeded_like(shapes, "subject_encoder"))


def released_text_encoder() -> TextEncoder:
    encoder = TextEncoder(RELEASED.text_encoder)
    canonical = encoder.canonical_state_dict()
    return TextEncoder.from_canonical(
        RELEASED.text_encoder, seeded_like({n: t.shape for n, t in canonical.items()}, "text_encoder")
    )


@pytest.fixture(scope="module")
def subject_case(tmp_path_factory):
    """Inputs, and what the reference makes of them; a two-word category, so that several word pieces are read."""
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    reference = {
        index: run_reference(
            "subject", {"pixels": pixels[index : index + 1]}, {"category": category}, tmp_path_factory.mktemp("subject")
        )
        for index, category in enumerate(["dog", "grey sloth plushie"])
    }
    return pixels, reference


@torch.no_grad()
def test_subject_encoder(subject_case):
    pixels, reference = subject_case
    module = released_subject_encoder()
    ids, mask = WordPieceTokenizer(bert_word_pieces()).batch(["dog", "grey sloth plushie"])
    assert not mask.all(), "the shorter category should be padded, so that padding is part of the comparison"
    tower = module.visual_encoder(pixels)
    queries = module.qformer(tower, ids, mask)
    vectors = module(pixels, ids, mask)
    for index, expected in reference.items():
        one = slice(index, index + 1)
        assert relative_error(tower[one], expected["tower"]) <= TOLERANCE
        assert relative_error(queries[one], expected["queries"]) <= TOLERANCE
        assert relative_error(vectors[one], expected["vectors"]) <= TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("prompt", ["swimming underwater", "wearing a knitted red hat, in front of the Eiffel tower"])
def test_text_encoder(prompt, tmp_path):
    vectors = torch.randn(1, 16, 768, generator=torch.Generator().manual_seed(1))
    reference = run_reference("text", {"vectors": vectors}, {"prompt": prompt, "category": "dog"}, tmp_path)
    encoder = released_text_encoder()
    context = encode_subject(encoder, compose(prompt, "dog"), Subject(vectors, "dog", "random"))
    assert relative_error(context, reference["context"]) <= TOLERANCE
    assert relative_error(encoder.encode_plain(""), reference["empty"]) <= TOLERANCE


SMALL_RUN = """
import sys, torch
from safetensors.torch import save_file
from blipdiff_impl.blip_diffusion.config import ImageTowerConfig, ModelConfig, QFormerConfig
from blipdiff_impl.blip_diffusion.subject import Subject
from blipdiff_impl.blip_diffusion.subject_module import SubjectEncoderModule
from blipdiff_impl.blip_diffusion.text import encode_subject
from blipdiff_impl.prompts.rows import compose
from blipdiff_impl.stable_diffusion.config import TextEncoderConfig
from blipdiff_impl.stable_diffusion.text_encoder import TextEncoder
from tests.reference.seeded import seeded_like
import transformers
config = ModelConfig(
    image_tower=ImageTowerConfig(image_size=32, patch_size=8, hidden_size=48, num_hidden_layers=3,
                                 num_attention_heads=4, intermediate_size=96),
    qformer=QFormerConfig(vocab_size=60, hidden_size=40, num_hidden_layers=3, num_attention_heads=4,
                          intermediate_size=80, max_position_embeddings=24, num_query_tokens=16),
    text_encoder=TextEncoderConfig(hidden_size=40, num_hidden_layers=3, num_attention_heads=4, intermediate_size=80),
)
with torch.device("meta"):
    shapes = {n: t.shape for n, t in SubjectEncoderModule(config).canonical_state_dict().items()}
module = SubjectEncoderModule.from_canonical(config, seeded_like(shapes, "small"))
pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))
ids = torch.tensor([[2, 7, 9, 3], [2, 11, 3, 0]])
text = TextEncoder(config.text_encoder)
text = TextEncoder.from_canonical(config.text_encoder,
    seeded_like({n: t.shape for n, t in text.canonical_state_dict().items()}, "text"))
with torch.no_grad():
    vectors = module(pixels, ids, (ids > 0).long())
    context = encode_subject(text, compose("on a sunny beach", "dog"), Subject(vectors, "dog", "x"))
print(transformers.__version__)
save_file({"vectors": vectors, "context": context}, sys.argv[1])
"""


def test_same_result_on_oldest_and_newest_transformers(tmp_path):
    """transformers 4.50 and the newest give the same vectors and contexts; only kernels may differ (float32, 1e-5)."""
    import os

    from tools.places import ROOT, TRANSFORMERS_4_50

    results, versions = [], []
    for folder in (TRANSFORMERS_4_50, None):
        path = os.pathsep.join(str(part) for part in (folder, ROOT) if part)
        output = tmp_path / f"{len(results)}.safetensors"
        finished = subprocess.run(
            [sys.executable, "-c", SMALL_RUN, str(output)],
            env=os.environ | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
        assert finished.returncode == 0, finished.stderr[-3000:]
        versions.append(finished.stdout.split()[-1])
        results.append(load_file(output))
    assert versions[0].startswith("4.50.") and versions[1] > "5", versions
    for name in ("vectors", "context"):
        assert relative_error(results[0][name], results[1][name]) <= 1e-5
