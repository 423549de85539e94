"""What an artist chooses for fine-tuning; the defaults are the paper's (appendix A.6)."""

from __future__ import annotations

from dataclasses import dataclass

from ...settings import MAX_SEED, require_in_range, require_one_of

METHODS = ("full", "lora", "vectors")
UNIFORM, EVEN = TIMESTEPS = ("uniform", "even")
MAX_STEPS = 10_000
MIN_LEARNING_RATE, MAX_LEARNING_RATE = 1e-7, 1e-2
MAX_BATCH = 64
MAX_RANK = 256

# Low-rank factors are stepped this much faster than whole weights, so that one learning rate suits both methods: a
# change is the product of two factors, one of which starts at zero.
LORA_RATE = 100.0
# And the vectors this much faster where they alone are trained: at the rate of whole weights they would hardly move.
VECTORS_RATE = 200.0


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings:
    """Settings of one fine-tuning.

    Attributes:
        method: "full" trains every weight of the UNet, "lora" low-rank factors beside its attention layers,
            "vectors" the subject's 16 vectors alone.
        steps: 40 to 120 in the paper, 76 on average.
        learning_rate: constant. The paper's appendix and the release say 5e-6, its main text 5e-5.
        batch_size: pictures per step.
        rank: of the low-rank factors.
        seed: of everything that is drawn.
        background_weight: what the loss counts outside the masks, 0..1; 1 leaves masks unused.
        flip: show a random half of the pictures mirrored.
        prior_weight: what pictures of the class count beside the subject's, where there are any.
        ema_decay: of a running mean of the weights, which then is the result; 0 is off.
        timesteps: "uniform" draws each by itself, as in the paper; "even" spreads those of a run over all times.
        min_snr: what a timestep counts, min(SNR, this) / SNR (Hang et al. 2023), which takes weight from the least
            noisy ones; 0 is off, as in the paper.
        vectors_speed: how much faster than the rest the vectors learn, where they are not alone; 1 in the paper.
        betas, epsilon, weight_decay: of AdamW. Biases and norms are not decayed, as in the release.

    Raises:
        SubjectError: a value that cannot work.
    """

    method: str = "full"
    steps: int = 80
    learning_rate: float = 5e-6
    batch_size: int = 3
    rank: int = 16
    seed: int = 0
    background_weight: float = 1.0
    flip: bool = False
    prior_weight: float = 1.0
    ema_decay: float = 0.0
    timesteps: str = UNIFORM
    min_snr: float = 0.0
    vectors_speed: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    weight_decay: float = 0.01

    def __post_init__(self):
        require_one_of("method", self.method, METHODS)
        require_in_range("steps", self.steps, 1, MAX_STEPS, "the paper uses 40 to 120")
        require_in_range(
            "learning_rate", self.learning_rate, MIN_LEARNING_RATE, MAX_LEARNING_RATE, "the paper uses 5e-6"
        )
        require_in_range("batch_size", self.batch_size, 1, MAX_BATCH, "the paper uses 3")
        require_in_range("rank", self.rank, 1, MAX_RANK, "4 to 32 are usual")
        require_in_range("seed", self.seed, 0, MAX_SEED, "any whole number will do")
        require_in_range("background_weight", self.background_weight, 0, 1, "1 counts the whole picture")
        require_in_range("prior_weight", self.prior_weight, 0, 10, "1 counts class pictures as much as the subject's")
        require_in_range("ema_decay", self.ema_decay, 0, 0.9999, "0 is off, 0.95 is a mean over about 20 steps")
        require_one_of("timesteps", self.timesteps, TIMESTEPS)
        require_in_range("min_snr", self.min_snr, 0, 1000, "5 is usual, 0 is off")
        require_in_range("vectors_speed", self.vectors_speed, 0, 10_000, "1 is the rate of all else")
