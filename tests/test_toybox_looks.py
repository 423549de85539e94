"""What is drawn of the built-in model to be looked at: the sheet of subjects, and how PNDM behaves along a run."""

import torch
from PIL import Image

from blipdiff_impl.blip_diffusion.pipeline import SubjectPipeline
from blipdiff_impl.files import as_tensor
from blipdiff_impl.toybox import subject_sheet
from blipdiff_impl.toybox.evaluate import Evaluation, make_trials
from blipdiff_impl.toybox.judge import Judge
from blipdiff_impl.toybox.stability import measure_run, print_stability


def test_each_reference_stands_beside_its_picture(tmp_path, monkeypatch):
    seen = []
    lay_out = subject_sheet.contact_sheet
    monkeypatch.setattr(subject_sheet, "contact_sheet", lambda *parts: seen.append(parts) or lay_out(*parts))
    subject_sheet.write_sheet(2, tmp_path / "new" / "sheet.png", size=96, steps=2)
    ((pictures, columns, labels),) = seen
    first, second = make_trials(2)
    assert columns == 4 and pictures.shape == (4, 96, 96, 3)
    assert labels == [first.subject.category, first.phrase, second.subject.category, second.phrase]
    for number, trial in enumerate((first, second)):
        reference = Image.fromarray(trial.reference).resize((96, 96), Image.Resampling.NEAREST)
        assert torch.equal(pictures[2 * number], as_tensor(reference))
    with Image.open(tmp_path / "new" / "sheet.png") as sheet:
        assert sheet.format == "PNG" and sheet.width > 3 * sheet.height


def test_pndm_swings_at_high_guidance_and_ddim_does_not():
    """Each change of the guided noise undoes the one before, and the latent grows."""
    pipeline, evaluation = SubjectPipeline.from_checkpoint("toybox"), Evaluation(Judge.load(), make_trials(1))
    calm, wild = (measure_run(pipeline, evaluation, name, 25, 7.5) for name in ("ddim", "pndm"))
    assert calm.direction > 0 > wild.direction and wild.largest > 1.5 * calm.largest
    assert set(calm.scores) == set(wild.scores)
    assert not pipeline.unet._forward_hooks


def test_the_table_has_a_row_for_each_run(capsys):
    print_stability(1, (("ddim", 3, 2.5),))
    heading, row = capsys.readouterr().out.splitlines()
    assert row.startswith("| DDIM, 3, 2.5 | ") and heading.count("|") == row.count("|")
    assert all(abs(float(cell)) < 1000 for cell in row.split("|")[2:-1])
