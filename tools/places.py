"""Where the developer commands keep things: all of it inside the git-ignored `.cache` folder of this checkout."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache"
VENV_PYTHON = CACHE / "venv" / "bin" / "python"
REFERENCE = CACHE / "reference"  # diffusers 0.33.1 and transformers 4.51.3: the independent BLIP-Diffusion classes
COMFY_CLI = CACHE / "comfy-cli"  # ComfyUI's command that packs what the Registry ships
NEW_FRONT_END = CACHE / "new-front-end"  # the newest package of ComfyUI's front end
TRANSFORMERS_4_50 = CACHE / "transformers-4.50"  # the oldest transformers that the pack supports

PACK_FOLDER = "blip-diffusion-subjects"  # the pack's folder name inside custom_nodes; a dot would break node help
