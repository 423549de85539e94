"""Checkpoints of a run: whole folders, written under another name first, so that a killed run leaves none half done.

OUT/checkpoints/step_00010000/   accelerate's files (model, optimiser, scaler, random states of each process),
                                 settings.yaml, progress.json, average.safetensors
"""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import re
import shutil
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..errors import SubjectError
from .averages import AveragedWeights
from .run_log import Progress
from .settings import StageSettings
from .settings_file import require_same_run, to_yaml

_STEP = re.compile(r"step_(\d{8})")
_SHARDS = "pytorch_model_fsdp*"  # accelerate's name for weights that FSDP wrote; a folder, or a file of all of them
_WHOLE = "model*.safetensors"


class RunFolder:
    """The checkpoints in a run's folder.

    Args:
        accelerator: `accelerate.Accelerator` that has prepared model and optimiser.
    """

    def __init__(self, folder: Path, accelerator, settings: StageSettings, average: AveragedWeights | None):
        self._folder = folder / "checkpoints"
        self._accelerator, self._settings, self._average = accelerator, settings, average

    def latest(self) -> Path | None:
        """The newest whole checkpoint."""
        found = [path for path in self._folder.glob("step_*") if _STEP.fullmatch(path.name)]
        return max(found, default=None)

    def save(self, progress: Progress) -> None:
        """Write a checkpoint and remove those beyond `settings.keep`; all processes call it together."""
        final = self._folder / f"step_{progress.step:08d}"
        partial = final.with_suffix(".partial")
        if self._accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        self._accelerator.wait_for_everyone()
        self._accelerator.save_state(str(partial))
        if self._accelerator.is_main_process:
            (partial / "settings.yaml").write_text(to_yaml(self._settings), encoding="utf-8")
            (partial / "progress.json").write_text(json.dumps(dataclasses.asdict(progress)), encoding="utf-8")
            if self._average:
                save_file(self._average.state(), partial / "average.safetensors")
        self._accelerator.wait_for_everyone()
        if self._accelerator.is_main_process:
            shutil.rmtree(final, ignore_errors=True)
            os.replace(partial, final)
            self._prune()
        self._accelerator.wait_for_everyone()

    def resume(self, samples: int) -> Progress:
        """Bring everything to the newest checkpoint, if there is one; tells where the run stands.

        Args:
            samples: in the data; another number would be other data.

        Raises:
            SubjectError: a damaged checkpoint, one of other settings or data, or one that only a run with (or without)
                sharded weights can read.
        """
        path = self.latest()
        if path is None:
            return Progress(samples=samples)
        try:
            require_same_run((path / "settings.yaml").read_text(encoding="utf-8"), self._settings, path)
            progress = Progress(**json.loads((path / "progress.json").read_text(encoding="utf-8")))
            if progress.samples != samples:
                raise SubjectError(f"{path} was trained on {progress.samples} samples, but there are {samples} now.")
            self._require_same_sharding(path)
            self._accelerator.load_state(str(path))
            if self._average:
                self._average.restore(load_file(path / "average.safetensors"), progress.step)
        except (OSError, KeyError, TypeError, RuntimeError, EOFError, json.JSONDecodeError, pickle.UnpicklingError,
                SafetensorError):  # fmt: skip
            raise SubjectError(f"The checkpoint {path} is damaged. Remove it to resume from an earlier one.") from None
        return progress

    def _require_same_sharding(self, path: Path) -> None:
        """accelerate would only miss a file, as if the checkpoint were damaged."""
        sharded = self._accelerator.distributed_type == "FSDP"
        if not sharded and any(path.glob(_SHARDS)):
            raise SubjectError(
                f"The weights of {path} are sharded (FSDP), which this run cannot read. Start it "
                "with `accelerate launch --use_fsdp --fsdp_version 2 -m blipdiff_impl pretrain` and the same "
                "options, on any number of processes."
            )
        if sharded and any(path.glob(_WHOLE)) and not any(path.glob(_SHARDS)):
            raise SubjectError(
                f"The weights of {path} are whole, and this run shards them. Start it without --use_fsdp to go on, or "
                "choose another folder as out."
            )

    def _prune(self) -> None:
        whole = sorted(path for path in self._folder.glob("step_*") if _STEP.fullmatch(path.name))
        for path in [*whole[: -self._settings.keep], *self._folder.glob("*.partial")]:
            shutil.rmtree(path, ignore_errors=True)
