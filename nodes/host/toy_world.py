"""A MODEL of the toy world says so where it is asked for pictures of a size that it never saw."""

from __future__ import annotations

from comfy.patcher_extension import WrappersMP

from ...blipdiff_impl.stable_diffusion.config import VAE_FACTOR
from ...blipdiff_impl.toy_world.limits import size_notice
from .notices import tell

SIZES_KEY = "blipdiffusion_trained_sizes"


def watch_sizes(patcher) -> None:
    """Let a MODEL, and all clones of it, tell of sizes that it was not trained on; it draws them all the same."""
    patcher.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, SIZES_KEY, _SizeWatch().run)


class _SizeWatch:
    """Tells on the node in every run, and in the log once for each size."""

    def __init__(self):
        self._logged: set[tuple[int, int]] = set()

    def run(self, executor, noise, *args, **kwargs):
        """A run of a sampler."""
        height, width = (VAE_FACTOR * side for side in noise.shape[-2:])
        if (sentence := size_notice(width, height)) is not None:
            tell(sentence, logged=(width, height) not in self._logged)
            self._logged.add((width, height))
        return executor(noise, *args, **kwargs)

    def __deepcopy__(self, memo) -> _SizeWatch:
        return self
