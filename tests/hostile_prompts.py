"""Hostile values through the host's own executor: fixtures for the tests that name this module in `pytest_plugins`.

What does not come through widgets and typed sockets comes from a node whose output fits every socket, as packs of "any"
switches have them: the host looks at neither type nor range of such values.
"""

import asyncio
import uuid
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fuzz_values import described, is_widget, ordinary_value
from gill_fixtures import host_gill
from ms_world import random_adapter, the_world

from blipdiff_impl.ms_diffusion.checkpoint import save_adapter
from blipdiff_impl.pictures.pixels import to_pillow

TOYBOX = "toybox (built in, toy world only)"

# What the ordinary call of a node needs beside defaults, and optional inputs that it cannot do without.
ORDINARY = {"SubjectScene": {"prompt": "a {a} on the beach"}, "GILLPrompt": {"text": "<image1> at night"},
            "GILLTurn": {"text": "what is <image1>?"}}  # fmt: skip
CONNECTED = {"SubjectMatte": ("masks",), "SubjectP2PEdit": ("subject",), "GILLPrompt": ("images",),
             "GILLTurn": ("images", "previous"), "MSDiffusionApply": ("clip_vision",)}  # fmt: skip


class Executor:
    """The host's validation and execution of API prompts, without a browser at the other end."""

    def __init__(self, execution):
        self.validate = execution.validate_prompt
        sink = SimpleNamespace(client_id=None, last_node_id=None, send_sync=lambda *_: None)
        self.executor = execution.PromptExecutor(sink, cache_args={"ram": 0, "ram_inactive": 0, "lru": 0})

    def run(self, prompt):
        """What went wrong, as (kind, message); `kind` is the host's type of refusal or the exception's class."""
        name = str(uuid.uuid4())
        valid, error, outputs, node_errors = asyncio.run(self.validate(name, prompt, None))
        if not valid:
            found = [each for node in node_errors.values() for each in node["errors"]] or [error]
            return [(each["type"], f"{each['message']}: {each['details']}") for each in found]
        self.executor.execute(prompt, name, {}, outputs)
        failed = [data for event, data in self.executor.status_messages if event == "execution_error"]
        return [(data["exception_type"].split(".")[-1], data["exception_message"]) for data in failed]


@pytest.fixture(scope="module")
def handed():
    """Values by key, which the node of `any_nodes` hands on."""
    return {}


@pytest.fixture(scope="module")
def executor(comfy, handed, any_nodes):
    """The host's executor with the pack's nodes and two for the test registered; there is no server in this process."""
    import execution
    import server

    mappings = comfy.nodes.NODE_CLASS_MAPPINGS
    added = {node.define_schema().node_id: node for node in [*comfy.pack.NODES, *any_nodes]}
    with pytest.MonkeyPatch.context() as patch:
        for name, node in added.items():
            patch.setitem(mappings, name, node)
        listener = SimpleNamespace(send_progress_text=lambda *_: None, client_id=None, send_sync=lambda *_: None)
        patch.setattr(server.PromptServer, "instance", listener, raising=False)
        yield Executor(execution)


@pytest.fixture(scope="module")
def any_nodes(comfy, handed):
    from comfy_api.latest import io

    class AnySource(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            return io.Schema("AnySource", inputs=[io.String.Input("key")], outputs=[io.AnyType.Output()])

        @classmethod
        def execute(cls, key):
            return io.NodeOutput(handed[key])

    class AnySink(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            inputs = [io.AnyType.Input(f"value{i}", optional=True) for i in range(8)]
            return io.Schema("AnySink", inputs=inputs, outputs=[], is_output_node=True)

        @classmethod
        def execute(cls, **_):
            return io.NodeOutput()

    return AnySource, AnySink


@pytest.fixture(scope="module")
def proper(comfy):
    """A proper value for each socket type, and those for nodes that need another."""
    call = lambda name, *inputs: comfy.node(name).execute(*inputs).result  # noqa: E731
    pictures, masks = torch.rand(2, 64, 64, 3), torch.rand(2, 64, 64).round()
    with torch.inference_mode():
        model, clip, vae, encoder, _ = call("SubjectModelLoader", TOYBOX, "default")
        subject, _ = call("SubjectEncoder", encoder, pictures, "dog", "crop")
        (conditioning,) = call("SubjectPromptInfix", clip, subject, "on a beach")
        latent = {"samples": torch.randn(1, 4, 8, 8)}
        values = {"MODEL": model, "CLIP": clip, "VAE": vae, "SUBJECT_ENCODER": encoder, "SUBJECT": subject,
                  "IMAGE": pictures, "MASK": masks, "LATENT": latent, "CONDITIONING": conditioning}  # fmt: skip
        vision = host_gill(comfy, clip)  # a tiny one, in models/gill, and what it sees pictures with
        (gill,) = call("GILLLoader", "tiny.safetensors", "tiny-opt", "fp32", vision)
        (said,) = call("GILLPrompt", "a cat")
        embedding = call("GILLGenerate", gill, said)[5]
        folder = Path(comfy.folder_paths.get_input_directory()) / "album"
        folder.mkdir(exist_ok=True)
        to_pillow(pictures[0]).save(folder / "a.png")
        (index,) = call("GILLIndex", gill, "album")
        values |= {"CLIP_VISION": vision, "GILL_MODEL": gill, "GILL_PROMPT": said, "GILL_EMBEDDING": embedding,
                   "GILL_INDEX": index, "COMFY_AUTOGROW_V3": pictures[:1]}  # fmt: skip
        ms = the_world(comfy)  # its MODEL, CLIP and CLIP_VISION are of Stable Diffusion XL's kind
        adapters = Path(comfy.folder_paths.get_folder_paths("msdiffusion")[0])
        adapters.mkdir(parents=True, exist_ok=True)
        with torch.inference_mode(False):
            save_adapter(random_adapter(), adapters / "small.safetensors", torch.float32, overwrite=True)
        values |= {"MS_ADAPTER": ms.ms_adapter, "MS_SUBJECTS": ms.two(),
                   "BOUNDING_BOX": {"x": 8, "y": 8, "width": 32, "height": 32}}  # fmt: skip
        (recording,) = call("SubjectAttentionMaps", model, conditioning, "subject", "", "all", 0.0, 1.0)
        edit = call("SubjectP2PEdit", model, clip, latent, "cat", "dog", "on a sofa", "", 0.8, 0.4, 0.3)

        def sampled(model, positive, negative, latent):
            return comfy.nodes.common_ksampler(model, 0, 1, 2.0, "euler", "normal", positive, negative, latent)[0]

        seen, edited = sampled(recording, conditioning, conditioning, latent), sampled(*edit)
    return values, {
        "SubjectAttentionView": {"model": recording, "samples": seen},
        "SubjectEditResult": {"model": edit[0], "samples": edited},
        "MSDiffusionApply": {"model": ms.model, "clip": ms.clip, "clip_vision": ms.clip_vision},
        "MSDiffusionLoader": {"adapter_name": "small.safetensors"},
        "MSDiffusionSubject": {"image": pictures[:1], "mask": masks[:1], "box_mask": masks[:1]},
    }


@pytest.fixture
def graph(comfy, handed, proper):
    """A function: node id, hostile values by input, optional inputs to connect -> API prompt."""
    values, of_nodes = proper

    def build(name, hostile=None, optional=(), linked=()):
        handed.clear()
        hostile, info, prompt, inputs = hostile or {}, comfy.node(name).GET_NODE_INFO_V1(), {}, {}
        special = {**ORDINARY.get(name, {}), **of_nodes.get(name, {})}
        for input_name, kind, options, is_optional in described(info):
            if is_optional and input_name not in {*hostile, *optional, *CONNECTED.get(name, ())}:
                continue
            default = ordinary_value(input_name, options) if is_widget(kind) else values[kind]
            value = hostile.get(input_name, special.get(input_name, default))
            if not is_widget(kind) or input_name in linked:
                handed[f"{name}.{input_name}.{uuid.uuid4()}"] = value  # a new key, so that the cache knows no result
                prompt[f"any_{input_name}"] = {"class_type": "AnySource", "inputs": {"key": list(handed)[-1]}}
                value = [f"any_{input_name}", 0]
            elif isinstance(value, list):
                value = {"__value__": value}
            inputs[f"{input_name}.image1" if kind == "COMFY_AUTOGROW_V3" else input_name] = value
        prompt["node"] = {"class_type": name, "inputs": inputs}
        if not info["output_node"]:
            links = {f"value{i}": ["node", i] for i in range(len(info["output"]))}
            prompt["sink"] = {"class_type": "AnySink", "inputs": links}
        return prompt

    return build
