"""Settings of pre-training: defaults, YAML, mistakes, and the rows of the paper's Table 2."""

import argparse
import math

import pytest
import torch

from blipdiff_impl.__main__ import main
from blipdiff_impl.blip_diffusion.pretraining import command
from blipdiff_impl.blip_diffusion.pretraining.settings import ABLATIONS, STAGES, Stage1Settings, Stage2Settings
from blipdiff_impl.training.optimisers import learning_rate, make_optimiser, set_rate
from blipdiff_impl.training.settings_file import from_record, read_settings, require_same_run, to_yaml


def test_defaults_are_the_papers():
    """Paper section 4.1 and the author's code (stage 2), BLIP-2 (stage 1)."""
    second = Stage2Settings()
    assert (second.batch_size, second.steps, second.learning_rate, second.last_rate) == (16, 500_000, 2e-6, 2e-6)
    assert (second.betas, second.weight_decay, second.clip, second.subject_drop) == ((0.9, 0.999), 0.01, 20.0, 0.15)
    first = Stage1Settings()
    assert (first.batch_size, first.steps, first.warm_up, first.learning_rate) == (2320, 250_000, 2000, 1e-4)
    assert (first.betas, first.weight_decay, first.label_smoothing, first.text_length) == ((0.9, 0.98), 0.05, 0.1, 32)


@pytest.mark.parametrize(
    "settings", [Stage1Settings(steps=3, shards=("a.tar", "b.tar")), Stage2Settings(fresh=("unet",))]
)
def test_yaml_and_back(tmp_path, settings):
    path = tmp_path / "settings.yaml"
    path.write_text(to_yaml(settings), encoding="utf-8")
    assert read_settings(path, STAGES) == settings


def test_values_are_overridden_by_name(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("stage: 2\nshards: data/*.tar\nlearning_rate: 1\n", encoding="utf-8")
    settings = read_settings(path, STAGES, ["steps=7", "betas=[0.9, 0.95]", "subject_text=false"])
    assert settings.shards == ("data/*.tar",) and settings.learning_rate == 1.0
    assert (settings.steps, settings.betas, settings.subject_text) == (7, (0.9, 0.95), False)


@pytest.mark.parametrize("text, sentence", [
    ("", "should begin with `stage: 1`"),
    ("- 1", "should begin with `stage: 1`"),
    ("stage: 3", "should begin with `stage: 1`"),
    ("stage: 1\nstep: 5", "no setting 'step'. Did you mean steps"),
    ("stage: 1\nzzzz: 5", "no setting 'zzzz'. There are model"),
    ("stage: 1\nsubject_drop: 0.1", "Stage1Settings has no setting 'subject_drop'"),
    ("stage: 2\nsteps: many", "steps = 'many' should be a number"),
    ("stage: 2\nsteps: 1.5", "steps = 1.5 should be a number"),
    ("stage: 2\nsteps: true", "steps = True should be a number"),
    ("stage: 2\nsteps: 0", "steps = 0"),
    ("stage: 2\nsubject_drop: 1.5", "subject_drop = 1.5 is not possible; choose a number from 0 to 1"),
    ("stage: 2\nlearning_rate: .nan", "learning_rate = nan"),
    ("stage: 2\nlearning_rate: .inf", "learning_rate = inf"),
    ("stage: 2\nprecision: int8", "precision = 'int8' is unknown"),
    ("stage: 2\nfresh: [vae]", "fresh = 'vae' is unknown"),
    ("stage: 2\nbatch_size: 10\naccumulation: 4", "batch_size = 10 cannot be divided into accumulation = 4"),
    ("stage: 2\nbetas: [0.9]", "betas = "),
    ("stage: 2\nbetas: [0.9, a]", "betas = "),
    ("stage: 1\nbatch_size: 1", "needs at least two"),
    ("stage: [", "are not YAML"),
])  # fmt: skip
def test_mistakes_end_in_a_sentence(tmp_path, text, sentence):
    path = tmp_path / "settings.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=sentence):
        read_settings(path, STAGES)


def test_yaml_makes_no_objects(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("stage: 1\nout: !!python/object/apply:os.getcwd []\n", encoding="utf-8")
    with pytest.raises(ValueError, match="are not YAML"):
        read_settings(path, STAGES)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere.yaml cannot be read"):
        read_settings(tmp_path / "nowhere.yaml", STAGES)


def test_what_makes_another_run_is_told_with_both_values(tmp_path):
    before = to_yaml(Stage2Settings(seed=1, workers=3))
    require_same_run(before, Stage2Settings(seed=1, workers=0, log_every=7, out="elsewhere"), tmp_path)
    with pytest.raises(ValueError, match="seed was 1 and is 2"):
        require_same_run(before, Stage2Settings(seed=2), tmp_path)
    with pytest.raises(ValueError, match="stage was 2 and is 1"):
        require_same_run(before, Stage1Settings(), tmp_path)


def test_each_row_of_table_2_changes_what_it_says():
    base = Stage2Settings(stage1="first.safetensors")
    found = {}
    for row, changes in ABLATIONS.items():
        settings = from_record(Stage2Settings, {"stage1": "first.safetensors"} | changes)
        found[row] = {name for name in changes if getattr(settings, name) != getattr(base, name)}
    assert found == {
        "full": set(), "no-pretraining": {"stage1"}, "frozen-text-encoder": {"train_text_encoder"},
        "no-subject-text": {"subject_text"}, "no-subject-dropping": {"subject_drop"},
    }  # fmt: skip


def test_the_learning_rate_rises_then_falls_along_a_cosine():
    settings = Stage1Settings(steps=110, warm_up=10, learning_rate=0.2, last_rate=0.05)
    assert [learning_rate(step, settings) for step in (1, 5, 10)] == pytest.approx([0.02, 0.1, 0.2])
    assert learning_rate(60, settings) == pytest.approx(0.125)
    assert learning_rate(110, settings) == pytest.approx(0.05)
    flat = Stage2Settings()
    assert {learning_rate(step, flat) for step in (1, 1000, 500_000)} == {2e-6}


def weights_by_name():
    torch.manual_seed(0)
    shapes = {"unet.mid.weight": (8, 6), "unet.conv.weight": (6, 5, 3, 3), "unet.mid.bias": (8,),
              "qformer.layer.weight": (8, 8), "text.token_embedding.weight": (20, 8)}  # fmt: skip
    named = [(name, torch.nn.Parameter(torch.randn(shape))) for name, shape in shapes.items()]
    for _, weight in named:
        weight.grad = torch.randn_like(weight)
    return named


def test_adamw_is_pytorchs_own():
    settings = Stage2Settings(learning_rate=0.1, encoder_rate=1.0)
    named, expected = weights_by_name(), weights_by_name()
    ours = make_optimiser(named, settings, ("qformer.",), True)
    theirs = torch.optim.AdamW([w for _, w in expected], lr=0.1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    for optimiser in (ours, theirs):
        optimiser.step()
        optimiser.step()
    for (name, found), (_, wanted) in zip(named, expected, strict=True):
        torch.testing.assert_close(found, wanted, msg=name)


def test_muon_steps_matrices_by_an_orthogonal_update_and_nothing_else():
    settings = Stage2Settings(learning_rate=0.1, optimiser="muon", weight_decay=0.0, encoder_rate=0.5)
    named = weights_by_name()
    before = {name: weight.detach().clone() for name, weight in named}
    optimiser = make_optimiser(named, settings, ("qformer.",), True)
    set_rate(optimiser, 0.1)
    optimiser.step()
    change = {name: (weight.detach() - before[name]) for name, weight in named}
    for name, scale in (("unet.mid.weight", 0.1), ("unet.conv.weight", 0.1), ("qformer.layer.weight", 0.05)):
        matrix = change[name].flatten(1)
        singular = torch.linalg.svdvals(matrix) / (scale * 0.2 * math.sqrt(max(matrix.shape)))
        # Five Newton-Schulz steps bring singular values to 0.7 .. 1.2 (Jordan et al. 2024); nearly null ones lag.
        assert 0.6 < singular.median() < 1.3 and singular.max() < 1.3, (name, singular)
    for name in ("unet.mid.bias", "text.token_embedding.weight"):  # Adam's first step is the sign
        torch.testing.assert_close(change[name].abs(), torch.full_like(change[name], 0.1), rtol=1e-3, atol=0)


def test_muon_goes_on_from_its_state():
    settings = Stage2Settings(learning_rate=0.1, optimiser="muon")
    named, copies = weights_by_name(), weights_by_name()
    straight = make_optimiser(named, settings, (), True)
    straight.step()
    first = make_optimiser(copies, settings, (), True)
    first.step()
    second = make_optimiser(copies, settings, (), True)
    second.load_state_dict(first.state_dict())
    straight.step()
    second.step()
    for (_, found), (_, wanted) in zip(copies, named, strict=True):
        assert torch.equal(found, wanted)


def parse(*arguments):
    parser = argparse.ArgumentParser()
    command.add_commands(parser.add_subparsers())
    return parser.parse_args(["pretrain", *arguments])


def test_the_toy_worlds_second_stage_follows_the_first():
    arguments = ("--toybox", "--out", "run", "--set", "seed=3", "--set1", "steps=9", "--set2", "subject_drop=0")
    first, second = command.toy_stages(parse(*arguments))
    assert (first.steps, first.seed, second.seed, second.subject_drop) == (9, 3, 3, 0.0)
    assert second.stage1 == "run/stage1/subject_encoder.safetensors" and first.out == "run/stage1"
    assert [s.shards for s in (first, second)] == [("toy",)] * 2
    (only,) = command.toy_stages(parse(*arguments, "--stage", "2"))
    assert only == second


@pytest.mark.parametrize("arguments, sentence", [
    ([], "either a file of settings or --toybox"),
    (["a.yaml", "--toybox"], "either a file of settings or --toybox"),
    (["a.yaml", "--set1", "steps=3"], "--set1 goes with --toybox"),
    (["a.yaml", "--stage", "1"], "--stage goes with --toybox"),
    (["nowhere.yaml"], "nowhere.yaml cannot be read"),
    (["--toybox", "--set", "steps"], "--set steps should look like"),
    (["--toybox", "--set", "steps=["], "the value is not YAML"),
    (["--toybox", "--set", "stesp=4"], "Did you mean steps"),
])  # fmt: skip
def test_bad_arguments_end_in_a_sentence_and_status_2(capsys, arguments, sentence):
    assert main(["pretrain", *arguments]) == 2
    assert sentence in capsys.readouterr().err
