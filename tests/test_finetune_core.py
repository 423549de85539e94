"""The parts of fine-tuning that need no host: settings, chance, precision, low rank, averages, memory, the curve."""

import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_model import CONFIG, WIDTH, random_parts
from torch import nn

from blipdiff_impl.blip_diffusion.finetuning.captions import SubjectCaption, plain_caption
from blipdiff_impl.blip_diffusion.finetuning.curve import beside_curve, draw_curve
from blipdiff_impl.blip_diffusion.finetuning.memory import UNetSize, bytes_needed, plan, too_much
from blipdiff_impl.blip_diffusion.finetuning.optimiser import make_adamw, undo_last_step
from blipdiff_impl.blip_diffusion.finetuning.pictures import TrainingPictures, prepare, square_masks, squares
from blipdiff_impl.blip_diffusion.finetuning.plain import frozen_text_encoder
from blipdiff_impl.blip_diffusion.finetuning.settings import VECTORS_RATE, FinetuneSettings
from blipdiff_impl.blip_diffusion.finetuning.tuner import Prior, Tuner
from blipdiff_impl.errors import SubjectError
from blipdiff_impl.stable_diffusion.noise import add_noise, alphas_bar, min_snr_weights, noise_loss
from blipdiff_impl.stable_diffusion.text_encoder import TextEncoder
from blipdiff_impl.training.averages import RunningMean
from blipdiff_impl.training.draws import draws
from blipdiff_impl.training.lora import add_lora
from blipdiff_impl.training.precision import MasterWeights, choose_precision, forget_activations

RELEASED_SIZE = UNetSize(weights=859_520_964, factors_per_rank=199_296, channels=320)


class Linear(nn.Module):
    """The smallest thing that predicts noise: latents times a matrix, plus the mean of the context."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.block = nn.Module()
        self.block.attn1 = nn.Module()
        self.block.attn1.to_q = nn.Linear(4, 4)

    def forward(self, x, t, context):
        return self.block.attn1.to_q(x.movedim(1, -1)).movedim(-1, 1) + context.mean()


def tuner(settings, unet=None, precision=torch.float32, prior=None, count=3, mirrored=False):
    unet = unet or Linear()
    torch.manual_seed(1)
    latents = torch.randn(count, 4, 8, 8)
    pictures = TrainingPictures(latents, latents.flip(-1) if mirrored else None)
    vectors = torch.randn(1, 16, WIDTH)
    return Tuner(unet, unet, lambda v: v, vectors, pictures, settings, alphas_bar(), precision, prior)


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"method": "dream"}, "dream.*full, lora"),
        ({"steps": 0}, "steps = 0.*1 to 10000"),
        ({"steps": 100_000}, "steps = 100000"),
        ({"learning_rate": 0.0}, "learning_rate = 0.0.*5e-6"),
        ({"learning_rate": 1.0}, "learning_rate = 1.0"),
        ({"learning_rate": math.nan}, "learning_rate = nan"),
        ({"learning_rate": math.inf}, "learning_rate = inf"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"rank": 0}, "rank = 0"),
        ({"seed": -1}, "seed = -1"),
        ({"background_weight": 2.0}, "background_weight = 2.0"),
        ({"ema_decay": 1.0}, "ema_decay = 1.0"),
        ({"timesteps": "often"}, "often.*uniform, even"),
        ({"min_snr": -1.0}, "min_snr = -1.0.*5 is usual"),
        ({"vectors_speed": math.nan}, "vectors_speed = nan"),
    ],
)
def test_impossible_settings_are_refused(changes, sentence):
    with pytest.raises(SubjectError, match=sentence):
        FinetuneSettings(**changes)


def test_defaults_are_those_of_the_papers_appendix():
    settings = FinetuneSettings()
    assert (settings.learning_rate, settings.batch_size, settings.betas) == (5e-6, 3, (0.9, 0.999))
    assert (settings.weight_decay, settings.epsilon, settings.method) == (0.01, 1e-8, "full")


def test_every_picture_comes_before_any_comes_again():
    stream = draws(5, 3, (4, 2, 2), seed=1)
    order = torch.cat([next(stream).pictures for _ in range(10)]).tolist()
    for start in range(0, 30, 5):
        assert sorted(order[start : start + 5]) == [0, 1, 2, 3, 4]


def test_timesteps_are_uniform_and_seeded():
    one, other = draws(3, 500, (1, 1, 1), seed=2), draws(3, 500, (1, 1, 1), seed=2)
    first = next(one)
    assert torch.equal(first.timesteps, next(other).timesteps)
    times = torch.cat([first.timesteps, *(next(one).timesteps for _ in range(19))]).float()
    assert times.min() >= 0 and times.max() <= 999
    # 10,000 draws: a tenth of them in each hundred, with a standard deviation of 30
    assert (times.histc(10, 0, 1000) - 1000).abs().max() < 150
    assert not first.flipped.any() and next(draws(3, 500, (1, 1, 1), 0, flip=True)).flipped.float().mean() > 0.4


def test_even_timesteps_cover_all_times_with_few():
    """Of 60 of them, three are in each twentieth or one more or less; 60 by chance leave some out."""
    for seed in range(5):
        one, other = (draws(3, 3, (1, 1, 1), seed, even=True) for _ in range(2))
        times = torch.cat([next(one).timesteps for _ in range(20)])
        assert times.dtype == torch.int64 and times.min() >= 0 and times.max() <= 999
        assert torch.equal(times, torch.cat([next(other).timesteps for _ in range(20)]))
        shares = times.float().histc(20, 0, 1000)
        assert shares.min() >= 2 and shares.max() <= 4
    first, second = (next(draws(3, 3, (1, 1, 1), seed, even=True)).timesteps for seed in (1, 2))
    assert not torch.equal(first, second)


def test_min_snr_takes_weight_from_the_least_noisy_times():
    alphas = torch.tensor([0.99, 0.5])  # SNR 99 and 1
    found = min_snr_weights(alphas, 5.0)
    torch.testing.assert_close(found.flatten(), torch.tensor([5 / 99, 1.0]))
    assert min_snr_weights(alphas, 0.0) is None
    predicted, eps = torch.randn(2, 4, 2, 2), torch.randn(2, 4, 2, 2)
    due = (found * (predicted - eps).square()).mean()
    torch.testing.assert_close(noise_loss(predicted, eps, None, found), due)
    torch.testing.assert_close(noise_loss(predicted, eps, torch.full((2, 1, 2, 2), 0.3), found), due)


def test_noise_schedule_equals_diffusers():
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    torch.testing.assert_close(alphas_bar(), scheduler.alphas_cumprod, rtol=1e-4, atol=0)
    x, eps, t = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3), torch.tensor([7, 981])
    torch.testing.assert_close(add_noise(x, eps, alphas_bar()[t]), scheduler.add_noise(x, eps, t), rtol=1e-4, atol=1e-5)


def test_a_masked_loss_counts_places_by_their_weight():
    predicted, eps = torch.randn(2, 4, 2, 2), torch.randn(2, 4, 2, 2)
    weights = torch.zeros(2, 1, 2, 2)
    weights[:, :, 0] = 1
    torch.testing.assert_close(noise_loss(predicted, eps, weights), noise_loss(predicted[:, :, :1], eps[:, :, :1]))
    torch.testing.assert_close(noise_loss(predicted, eps, torch.full((2, 1, 2, 2), 0.3)), noise_loss(predicted, eps))


def test_pictures_are_cut_and_masks_with_them():
    photos, masks = torch.rand(2, 64, 96, 3), torch.zeros(2, 64, 96)
    masks[:, :, 16:48] = 1  # the left half of the middle square
    targets, cut = squares(photos, 64), square_masks(masks, photos, 64)
    torch.testing.assert_close(targets, photos[:, :, 16:80], rtol=0, atol=0.51 / 255)

    def encode(pixels):
        return pixels[:, ::8, ::8, :1].permute(0, 3, 1, 2).expand(-1, 4, -1, -1)

    pictures = prepare(targets, encode, cut, background_weight=0.25, flip=True)
    assert pictures.weights[:, :, :, :4].eq(1).all() and pictures.weights[:, :, :, 4:].eq(0.25).all()
    latents, weights = pictures.take(torch.tensor([1, 1]), torch.tensor([False, True]))
    assert torch.equal(latents[0], pictures.latents[1]) and torch.equal(latents[1], pictures.mirrored[1])
    assert torch.equal(weights[1], weights[0].flip(-1))
    assert prepare(targets, encode, cut).weights is None


def test_a_mask_outside_the_square_is_refused():
    masks = torch.zeros(1, 64, 200)
    masks[:, :, :20] = 1
    with pytest.raises(SubjectError, match="outside the middle square"):
        square_masks(masks, torch.rand(1, 64, 200, 3), 64)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_loss_falls(method):
    run = tuner(FinetuneSettings(method=method, steps=150, learning_rate=1e-2 if method == "full" else 1e-4))
    run.run()
    assert sum(run.losses[-20:]) < 0.8 * sum(run.losses[:20])


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_same_seed_gives_the_same_result(method, precision):
    results = []
    for seed in (3, 3, 4):
        run = tuner(FinetuneSettings(method=method, steps=4, seed=seed, learning_rate=1e-4), precision=precision)
        run.run()
        results.append(run.learned().vectors)
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


def test_small_steps_add_up_behind_low_precision():
    """5e-6 is less than the distance of two bfloat16 numbers near 1: without masters nothing would ever move."""
    weight = nn.Parameter(torch.ones(8, 8))
    masters = MasterWeights([weight], torch.bfloat16)
    assert weight.dtype == torch.bfloat16 and masters.masters[0].dtype == torch.float32
    optimiser = torch.optim.SGD(masters.masters, lr=1e-4)
    for _ in range(100):
        (weight.float().sum()).backward()
        masters.take_gradients()
        assert weight.grad is None
        optimiser.step()
        optimiser.zero_grad()
        masters.publish()
    torch.testing.assert_close(masters.masters[0].detach(), torch.full((8, 8), 0.99), rtol=1e-5, atol=0)
    assert torch.equal(weight.detach(), masters.masters[0].detach().bfloat16())


def test_vectors_alone_train_nothing_else():
    """Two hundred times faster than beside whole weights: Adam's first step is the rate."""
    unet = Linear()
    weight = unet.block.attn1.to_q.weight.clone()
    run = tuner(FinetuneSettings(method="vectors", steps=1, learning_rate=1e-5), unet)
    before = run.vectors.detach().clone()
    run.run()
    learned = run.learned()
    assert torch.equal(unet.block.attn1.to_q.weight, weight) and not learned.weights and not learned.factors
    step = (learned.vectors - before * (1 - 2e-3 * 0.01)).abs()
    torch.testing.assert_close(step, torch.full_like(step, 2e-3), rtol=1e-2, atol=0)


def test_lora_starts_at_nothing_and_trains_only_its_factors():
    unet = Linear()
    x, context = torch.randn(2, 4, 3, 3), torch.randn(2, 5, 6)
    before, weight = unet(x, None, context), unet.block.attn1.to_q.weight.clone()
    run = tuner(FinetuneSettings(method="lora", steps=3, rank=2, learning_rate=1e-4), unet)
    torch.testing.assert_close(unet(x, None, context), before, rtol=0, atol=1e-6)
    run.run()
    learned = run.learned()
    (factors,) = learned.factors.values()
    assert learned.weights == {} and factors.up.shape == (4, 2) and factors.up.abs().max() > 0
    layer = unet.block.attn1.to_q
    assert torch.equal(layer.base.weight, weight)
    merged = weight + factors.alpha / 2 * factors.up @ factors.down
    inputs = torch.randn(5, 4)
    torch.testing.assert_close(layer(inputs), torch.nn.functional.linear(inputs, merged, layer.base.bias))


def test_only_attention_gets_factors():
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(**CONFIG.unet.to_diffusers())
    with torch.device("cpu"):
        layers = add_lora(unet.to_empty(device="cpu"), 4, seed=0)
    assert {name.rpartition(".attn")[2] for name in layers} == {
        f"{i}.{part}" for i in "12" for part in ("to_q", "to_k", "to_v", "to_out.0")
    }
    transformers = 1 + sum(2 * a * CONFIG.unet.layers_per_block + a for a in CONFIG.unet.attention_levels)
    assert len(layers) == 8 * transformers


def test_the_last_step_can_be_taken_back():
    torch.manual_seed(1)
    vectors, factors = nn.Parameter(torch.randn(1, 16, 6)), [nn.Parameter(torch.randn(6, 2))]
    weights = [nn.Parameter(torch.randn(6, 6)), nn.Parameter(torch.randn(6))]
    settings = FinetuneSettings(learning_rate=1e-3, weight_decay=0.1, vectors_speed=5)
    optimiser = make_adamw(vectors, weights, factors, settings)
    for _ in range(4):
        before = [p.detach().clone() for p in (vectors, *weights, *factors)]
        for p in (vectors, *weights, *factors):
            p.grad = torch.randn_like(p)
        optimiser.step()
    undo_last_step(optimiser)
    for p, expected in zip((vectors, *weights, *factors), before, strict=True):
        torch.testing.assert_close(p.detach(), expected, rtol=1e-5, atol=1e-6)


def test_vectors_learn_as_much_faster_as_they_are_told():
    for method, speed, times in (
        ("full", 1.0, 1),
        ("full", 30.0, 30),
        ("lora", 2.0, 2),
        ("vectors", 7.0, VECTORS_RATE),
    ):
        settings = FinetuneSettings(method=method, learning_rate=1e-6, vectors_speed=speed)
        groups = make_adamw(nn.Parameter(torch.zeros(1, 16, 4)), [nn.Parameter(torch.zeros(2, 2))], [], settings)
        assert [group["lr"] for group in groups.param_groups] == pytest.approx([times * 1e-6, 1e-6])


def breaking(step):
    """A UNet whose prediction is not a number from `step` on."""
    calls = itertools.count(1)

    class Breaking(Linear):
        def forward(self, x, t, context):
            return super().forward(x, t, context) * (float("nan") if next(calls) >= step else 1.0)

    return Breaking()


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_weights(ema):
    settings = FinetuneSettings(steps=9, learning_rate=1e-3, ema_decay=ema)
    run = tuner(settings, breaking(5))
    run.run()
    assert "step 5 of 9" in run.stopped and "step 3" in run.stopped and "learning_rate" in run.stopped
    assert len(run.losses) == 3 and all(math.isfinite(loss) for loss in run.losses)
    good = tuner(FinetuneSettings(steps=3, learning_rate=1e-3, ema_decay=ema))
    good.run()
    for name, weight in good.learned().weights.items():
        torch.testing.assert_close(run.learned().weights[name], weight, rtol=1e-5, atol=1e-6)


def test_a_first_loss_that_is_no_number_is_an_error():
    with pytest.raises(SubjectError, match="first step is not a number"):
        tuner(FinetuneSettings(), breaking(1)).run()


def test_a_stop_between_steps_keeps_what_was_learned():
    def watch(done, losses):
        if done == 2:
            raise KeyboardInterrupt

    run = tuner(FinetuneSettings(steps=9, learning_rate=1e-3))
    with pytest.raises(KeyboardInterrupt):
        run.run(watch)
    two = tuner(FinetuneSettings(steps=2, learning_rate=1e-3))
    two.run()
    assert run.learned().steps == 2
    assert torch.equal(run.learned().vectors, two.learned().vectors)


def test_a_running_mean_is_a_plain_mean_first():
    tensor = torch.zeros(3)
    mean = RunningMean([tensor], 0.9)
    for value in (1.0, 2.0, 6.0):
        tensor.fill_(value)
        mean.update()
    assert torch.allclose(mean.means[0], torch.full((3,), 3.0))
    for _ in range(20):
        tensor.fill_(5.0)
        mean.update()
    before = mean.means[0].clone()
    tensor.fill_(0.0)
    mean.update()
    assert torch.allclose(mean.means[0], 0.9 * before)


def test_class_pictures_count_by_their_weight():
    torch.manual_seed(5)
    other = TrainingPictures(torch.randn(2, 4, 8, 8))
    results = {}
    for weight in (0.0, 1.0):
        settings = FinetuneSettings(steps=3, learning_rate=1e-3, prior_weight=weight)
        run = tuner(settings, prior=Prior(other, torch.randn(1, 4, WIDTH)))
        run.run()
        results[weight] = run.learned().weights["block.attn1.to_q.weight"]
    alone = tuner(FinetuneSettings(steps=3, learning_rate=1e-3))
    alone.run()
    assert torch.equal(results[0.0], alone.learned().weights["block.attn1.to_q.weight"])
    assert not torch.allclose(results[1.0], results[0.0], rtol=0, atol=1e-5)


def test_checkpointing_changes_no_gradient():
    gradients = []
    for forget in (False, True):
        unet = Linear()
        if forget:
            forget_activations([unet.block.attn1.to_q])
        run = tuner(FinetuneSettings(steps=2, learning_rate=1e-3), unet)
        run.run()
        gradients.append(run.learned().vectors)
    assert torch.equal(*gradients)


def test_the_caption_equals_the_text_encoders_own_encoding():
    """Against transformers' CLIPTextModel with the vectors put in by a hook; unpadded, vectors at index 2."""
    encoder = TextEncoder.from_canonical(CONFIG.text_encoder, random_parts(CONFIG, 6)["text_encoder"])
    ids, vectors = [49406, 320, *[49407] * 16, 1929, 2368, 49407], torch.randn(1, 16, WIDTH)
    with torch.no_grad():
        expected = encoder(torch.tensor([ids]), torch.arange(2, 18)[None], vectors)
        found = SubjectCaption(frozen_text_encoder(encoder), [320, 1929, 2368])(vectors)
        plain = plain_caption(frozen_text_encoder(encoder), [320, 1929], padded=True)
    assert found.shape == (1, 21, WIDTH)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    padded = encoder(torch.tensor([[49406, 320, 1929, *[49407] * 74]]))
    torch.testing.assert_close(plain, padded, rtol=0, atol=1e-5 * float(padded.abs().max()))


def test_a_caption_that_is_too_long_is_refused():
    encoder = frozen_text_encoder(TextEncoder.from_canonical(CONFIG.text_encoder, random_parts()["text_encoder"]))
    with pytest.raises(SubjectError, match="60 tokens.*58"):
        SubjectCaption(encoder, [320] * 61)


def test_checkpointing_is_chosen_only_where_memory_asks_for_it():
    settings, half = FinetuneSettings(), torch.bfloat16
    roomy = plan(RELEASED_SIZE, settings, 512, half, 80 * 2**30)
    tight = plan(RELEASED_SIZE, settings, 512, half, bytes_needed(RELEASED_SIZE, settings, 512, half, True))
    assert not roomy.checkpointing and tight.checkpointing
    assert "80.0 GiB free" in roomy.reason and "may not" not in tight.reason
    assert "may not be enough" in plan(RELEASED_SIZE, settings, 512, half, 2**30).reason


def test_the_sentence_for_too_little_memory_names_settings_that_fit():
    settings = FinetuneSettings(batch_size=6)
    sentence = too_much(RELEASED_SIZE, settings, 768, torch.bfloat16, 8 * 2**30)
    assert "method full, batch_size 6, resolution 768" in sentence and "8.0 GiB" in sentence
    assert "What fits: method lora" in sentence
    assert "Nothing smaller fits" in too_much(RELEASED_SIZE, settings, 768, torch.bfloat16, 2**30)


def test_lora_needs_less_memory_than_full():
    full, lora, vectors = (
        bytes_needed(RELEASED_SIZE, FinetuneSettings(method=method), 512, torch.bfloat16, False)
        for method in ("full", "lora", "vectors")
    )
    assert vectors < lora < full / 2


def test_the_float32_copy_of_the_model_counts():
    """In 16 bit with checkpointing it is the largest moment: the whole UNet, before the first step rounds it."""
    for method in ("lora", "vectors"):
        settings = FinetuneSettings(method=method, batch_size=1)
        assert bytes_needed(RELEASED_SIZE, settings, 512, torch.bfloat16, True) > 4 * RELEASED_SIZE.weights


def test_the_curve_shows_losses_and_why_it_ended():
    empty, some, ended = draw_curve([]), draw_curve([0.5, 0.2, 0.1] * 20), draw_curve([0.5, 0.2], "Stopped at step 3")
    for curve in (empty, some, ended):
        assert curve.shape == (1, 320, 640, 3) and 0 <= curve.min() and curve.max() <= 1
    red = (ended[..., 0] > 0.8) & (ended[..., 1] < 0.6)
    assert red.any() and not ((some[..., 0] > 0.9) & (some[..., 1] < 0.5)).any()
    assert not torch.equal(some, empty)


@pytest.mark.parametrize("ended_by", ["the last word", "word " * 25 + "end"])
def test_the_last_words_of_the_note_are_on_the_picture(ended_by):
    """Each word that is added shows, and nothing of the note is in the curve's way or over the edge."""
    black, losses = Image.new("RGB", (64, 64)), [0.5, 0.2, 0.1]
    notes = ("Stopped at step 117 of 120: the loss was not a number. The weights are those of step", ended_by)
    shorter, whole = (np.asarray(beside_curve(black, losses, note))[:, 480:] for note in (notes[0], " ".join(notes)))
    red = [(part[..., 0] > 150) & (part[..., 1] < 140) & (part[..., 2] < 140) for part in (shorter, whole)]
    assert red[1].sum() > red[0].sum() + 60
    assert not red[1][:, -20:].any()
    first_axis = np.flatnonzero((whole == [0x5A, 0x5A, 0x66]).all(-1).sum(1) > 0)[0]
    assert np.flatnonzero(red[1].any(1))[-1] < first_axis


def test_a_picture_stands_beside_the_curve():
    both = beside_curve(Image.new("RGB", (64, 64), "#ff0000"), [0.5, 0.2, 0.1])
    pixels = np.asarray(both)
    assert both.size == (960, 480) and (pixels[:, :480] == [255, 0, 0]).all()
    letters = (pixels[:60, 480:] > 150).all(-1)  # the title: at a third of this size it can still be read
    rows = letters.any(1).nonzero()[0]
    assert rows[-1] - rows[0] >= 24


def test_a_chosen_precision_is_used():
    assert choose_precision("bf16", torch.device("cpu"))[0] == torch.bfloat16
    precision, reason = choose_precision("auto", torch.device("cpu"))
    assert precision in (torch.float32, torch.bfloat16) and reason
