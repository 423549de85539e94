"""The built-in model's edge ControlNet: what the host's own nodes make of the file.

diffusers' ControlNet with the same weights is the reference for the host's, both in float32: 1e-4 of the largest value
leaves room for two implementations of attention.
"""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from blipdiff_impl.blip_diffusion.checkpoints import open_checkpoint
from blipdiff_impl.toy_world.render import render_picture
from blipdiff_impl.toy_world.world import BACKGROUND_NAMES, HELD_OUT_SEED, subject_from_seed
from blipdiff_impl.toybox.control_names import host_name
from blipdiff_impl.toybox.model import CONFIG
from blipdiff_impl.toybox.train_edges import HINT_CHANNELS, WEIGHT_FILE

EXACT = 1e-4
MAX_BYTES = 15_000_000
CONTROLNET = "blipdiffusion_toybox_edges.safetensors"


def renders(count, category=None, background=None, first=HELD_OUT_SEED + 5000):
    """Toy pictures `[N, 96, 96, 3]` in 0..1, of all kinds and places or of one."""
    rng = np.random.default_rng(first)
    drawn = [
        render_picture(subject_from_seed(first + i, category), background or BACKGROUND_NAMES[i % 12], rng).picture
        for i in range(count)
    ]
    return torch.from_numpy(np.stack(drawn)).float() / 255


@pytest.fixture(scope="module")
def host_canny(comfy):
    from comfy_extras.nodes_canny import Canny

    def run(pictures):
        return Canny.execute(pictures, 0.4, 0.8)[0]

    return run


@pytest.fixture(scope="module")
def toybox(comfy):
    with torch.inference_mode():
        return comfy.node("SubjectModelLoader").execute("toybox (built in, toy world only)", "fp32").result


@pytest.fixture
def control(comfy):
    """As the host's loader gives it."""
    return comfy.node("ControlNetLoader")().load_controlnet(CONTROLNET)[0]


def test_the_file_is_small_and_holds_numbers_only():
    tensors = load_file(WEIGHT_FILE)
    assert WEIGHT_FILE.stat().st_size <= MAX_BYTES
    assert {t.dtype for t in tensors.values() if t.numel()} == {torch.float16}
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())


def test_the_hosts_loader_lists_it_and_no_other_file_of_the_pack(comfy):
    folder = comfy.module("nodes.host.folders").CONTROLNETS
    assert CONTROLNET in comfy.folder_paths.get_filename_list("controlnet")
    assert str(folder) in comfy.folder_paths.get_folder_paths("controlnet")
    assert [path.name for path in folder.iterdir()] == [CONTROLNET]


def test_the_host_computes_what_diffusers_computes(comfy, toybox, control, host_canny):
    reference = _reference_control()
    generator = torch.Generator().manual_seed(3)
    latent, context = (torch.randn(shape, generator=generator) for shape in ((2, 4, 12, 12), (2, 77, 128)))
    edges = host_canny(renders(2))
    sampling = toybox[0].get_model_object("model_sampling")
    sigma = sampling.sigmas[400].expand(2)
    with torch.inference_mode():
        applied = control.copy().set_cond_hint(edges.movedim(-1, 1), 1.0, (0.0, 1.0))
        applied.pre_run(toybox[0].model, sampling.percent_to_sigma)
        found = applied.get_control(latent, sigma, {"c_crossattn": context}, 1, {})
        scaled = latent / (sigma[0] ** 2 + 1) ** 0.5
        down, middle = reference(scaled, torch.tensor(400), context, edges.movedim(-1, 1), return_dict=False)
    for host, expected in zip([*found["output"], found["middle"][0]], [*down, middle], strict=True):
        assert (host - expected).abs().max() < EXACT * expected.abs().max()


def _reference_control():
    """diffusers' ControlNet: the base's down blocks, with the file's tensors where it has some."""
    from diffusers import ControlNetModel, UNet2DConditionModel

    unet = UNet2DConditionModel(**CONFIG.unet.to_diffusers())
    unet.load_state_dict({name: t.float() for name, t in open_checkpoint("toybox").part("unet").items()})
    control = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=HINT_CHANNELS)
    own = load_file(WEIGHT_FILE)
    assert own.pop("lora_controlnet").numel() == 0
    theirs = {host_name(name): name for name in control.state_dict() if not name.startswith("time_embedding")}
    assert theirs.keys() == own.keys()
    control.load_state_dict(control.state_dict() | {theirs[name]: tensor.float() for name, tensor in own.items()})
    return control.eval()


def test_the_result_has_the_edges_of_the_control_picture(comfy, toybox, control, host_canny):
    """Eight pictures through the host's own nodes, with the ControlNet and without."""
    from tools.numbers.edges import edge_f1

    model, clip, vae = toybox[:3]
    wanted = host_canny(renders(8, "house", "snow"))

    def draw(strength):
        with torch.inference_mode():
            encode = comfy.node("CLIPTextEncode")().encode
            conds = encode(clip, "a house in the snow")[0], encode(clip, "")[0]
            apply = comfy.node("ControlNetApplyAdvanced")().apply_controlnet
            conds = apply(*conds, control, wanted, strength, 0.0, 1.0)
            latent = {"samples": torch.zeros(8, 4, 12, 12)}
            samples = comfy.nodes.common_ksampler(model, 1, 12, 2.5, "euler", "normal", *conds[:2], latent)[0]
            return host_canny(comfy.node("VAEDecode")().decode(vae, samples)[0])

    def score(found):
        pairs = zip(found[..., 0] > 0.5, wanted[..., 0] > 0.5, strict=True)
        return np.mean([edge_f1(a.numpy(), b.numpy()) for a, b in pairs])

    assert score(draw(1.0)) > score(draw(0.0)) + 0.15


def test_the_controlnet_sees_the_prompt_that_the_unet_sees(comfy, monkeypatch, toybox, control, host_canny):
    """A subject in the first half of the run, a ControlNet up to three quarters: what it is asked, step by step."""
    from comfy.controlnet import ControlNet

    model, clip = toybox[:2]
    Subject = comfy.module("blipdiff_impl.blip_diffusion.subject").Subject
    vectors = torch.randn(1, 16, 128, generator=torch.Generator().manual_seed(2))
    asked = []

    def spied(self, x, t, cond, *rest):
        result = original(self, x, t, cond, *rest)
        asked.append((cond["c_crossattn"].clone(), result is not None))
        return result

    original = ControlNet.get_control
    monkeypatch.setattr(ControlNet, "get_control", spied)
    with torch.inference_mode():
        prompt = comfy.node("SubjectPromptSchedule").execute
        positive = prompt(clip, Subject(vectors, "house", "f"), "in the snow", end=0.5)[0]
        negative = comfy.node("CLIPTextEncode")().encode(clip, "")[0]
        apply = comfy.node("ControlNetApplyAdvanced")().apply_controlnet
        conds = apply(positive, negative, control, host_canny(renders(1)), 1.0, 0.0, 0.75)
        latent = {"samples": torch.zeros(1, 4, 12, 12)}
        comfy.nodes.common_ksampler(model, 1, 8, 2.5, "euler", "simple", *conds[:2], latent)
    (with_subject, _), (plain, _) = positive
    expected = [torch.cat([negative[0][0], vectors]) for vectors in [with_subject] * 4 + [plain] * 4]
    assert all(torch.equal(found, wanted) for (found, _), wanted in zip(asked, expected, strict=True))
    assert [acts for _, acts in asked] == [True] * 6 + [False] * 2


def test_a_controlnet_of_another_family_stops_the_sampler_and_harms_nothing(comfy, toybox, control):
    """The host's own errors, which the help page names; the next run is as it was."""
    import tiny_model
    from comfy.cldm.cldm import ControlNet as Network
    from comfy.controlnet import ControlNet

    unet = tiny_model.canonical("unet", tiny_model.reference_modules(seed=5)["unet"])
    other = comfy.module("nodes.host.unet").load_unet(unet, tiny_model.CONFIG.unet, torch.float32)
    sizes = {**other.model.model_config.unet_config, "hint_channels": 3, "dtype": torch.float32}
    network = Network(**{name: value for name, value in sizes.items() if name != "out_channels"})
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.02)
    foreign = ControlNet(network, load_device=torch.device("cpu"))

    def sample(model, width, controlnet):
        conds = [[[torch.randn(1, 77, width, generator=torch.Generator().manual_seed(1)), {}]]] * 2
        with torch.inference_mode():
            apply = comfy.node("ControlNetApplyAdvanced")().apply_controlnet
            conds = apply(*conds, controlnet, torch.ones(1, 96, 96, 3), 1.0, 0.0, 1.0)
            latent = {"samples": torch.zeros(1, 4, 12, 12)}
            settings = (1, 2, 2.5, "euler", "normal", *conds[:2], latent)
            return comfy.nodes.common_ksampler(model, *settings)[0]["samples"]

    before = sample(toybox[0], 128, control)
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"):
        sample(toybox[0], 128, foreign)
    with pytest.raises(AttributeError, match="object has no attribute"):
        sample(other, tiny_model.WIDTH, control)
    assert torch.equal(sample(toybox[0], 128, control), before)


def test_agreement_of_edges_counts_both_ways():
    from tools.numbers.edges import edge_f1

    line, moved, far, none = (np.zeros((20, 20), bool) for _ in range(4))
    line[5], moved[6], far[12] = True, True, True
    assert edge_f1(line, line) == edge_f1(line, moved) == edge_f1(none, none) == 1
    assert edge_f1(line, far) == edge_f1(none, line) == edge_f1(line, none) == 0
    assert edge_f1(line | far, line) == pytest.approx(2 / 3)


@pytest.mark.parametrize("name", ["up_blocks.0.resnets.0.conv1.weight", "down_blocks.0.resnets.1.conv1.weight", ""])
def test_names_that_such_a_controlnet_does_not_have_are_refused(name):
    with pytest.raises(KeyError):
        host_name(name)
