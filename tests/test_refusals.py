"""What can be known before anything runs is refused by the host's validation, in a sentence that names its input."""

import copy

import pytest

pytest_plugins = ["hostile_prompts"]

# node -> (inputs that are typed, optional inputs to connect, the input that is wrong, what the sentence holds).
REFUSED = [
    ("SubjectModelLoader", {"model_name": "gone.safetensors"}, (), "model_name", "no checkpoint 'gone.safetensors'"),
    ("SubjectLoad", {"subject_name": "gone"}, (), "subject_name", "no saved subject 'gone'"),
    ("GILLLoader", {"checkpoint": "gone.safetensors"}, (), "checkpoint", "no GILL model 'gone.safetensors'"),
    ("GILLLoader", {"language_model": "gone"}, (), "language_model", "no language model 'gone'"),
    ("MSDiffusionLoader", {"adapter_name": "gone.bin"}, (), "adapter_name", "no MS-Diffusion adapter 'gone.bin'"),
    ("MSDiffusionSubject", {"phrase": " "}, (), "phrase", "phrase of a subject is empty"),
    ("GILLPrompt", {"text": "<image1> or <image2>"}, (), "text", "to image2 (connected: image1)"),
    ("GILLTurn", {"text": "is <image3> a cat?"}, (), "text", "no picture is connected to image3"),
    ("SubjectSave", {"filename_prefix": "pets/a:b"}, (), "filename_prefix", "it holds :"),
    ("SubjectSave", {"filename_prefix": "../mine"}, (), "filename_prefix", "begins with a dot"),
    ("SubjectAttentionMaps", {"tokens": "chosen words", "words": " , "}, (), "words", "No words are chosen"),
    ("SubjectAttentionMaps", {"tokens": "each letter"}, (), "tokens", "tokens = 'each letter' is unknown"),
    ("SubjectEncoder", {"category": " "}, (), "category", "The category is empty"),
    ("SubjectMatte", {"category": "dog"}, (), "segmenter", "no CLIPSeg model"),
    ("SubjectInvert", {"source_category": "..."}, (), "source_category", "The category is empty"),
    ("SubjectPromptInfix", {"prompt": "[subject] and [subject]"}, (), "prompt", "2 times"),
    ("SubjectPromptSchedule", {"prompt": "[subject] and [subject]"}, (), "prompt", "2 times"),
    ("SubjectScene", {"prompt": "a {a} and a {b}"}, (), "prompt", "subject_b is not connected"),
    ("SubjectScene", {"prompt": "a {a} and a {a}"}, (), "prompt", "2 times"),
    ("SubjectScene", {"prompt": "a dog"}, (), "prompt", "0 markers for 1 subjects"),
    ("SubjectScene", {"prompt": "a {a}"}, ("subject_b",), "prompt", "1 markers for 2 subjects"),
    ("SubjectScene", {"prompt": " "}, (), "prompt", "The prompt is empty"),
    ("SubjectScene", {"prompt": "a {a}"}, ("mask_c",), "mask_c", "subject_c is not"),
    ("SubjectP2PEdit", {"source_category": ""}, (), "source_category", "The category is empty"),
    ("SubjectP2PEdit", {"target_category": ""}, (), "target_category", "no name"),
    ("SubjectP2PEdit", {"target_category": "dog", "blend_words": "sofa, snwo"}, (), "blend_words", "'snwo' is not in"),
    ("SubjectP2PEdit", {"target_category": "dog", "reweight": "snwo: 2"}, (), "reweight", "'snwo' is not in"),
    ("SubjectP2PEdit", {"reweight": "sofa"}, ("subject",), "reweight", "reweight holds 'sofa'"),
]  # fmt: skip
# What must not be refused: it is known only when it runs, or right.
ACCEPTED = [
    ("MSDiffusionSubject", {"phrase": " teddy  bear"}, ()),
    ("GILLPrompt", {"text": "<image1> at night"}, ()),
    ("SubjectSave", {"filename_prefix": "pets/%year% my dog"}, ()),
    ("SubjectAttentionMaps", {"tokens": "chosen words", "words": "beach"}, ()),
    ("SubjectAttentionMaps", {"tokens": "subject", "words": ""}, ()),
    ("SubjectPromptInfix", {"prompt": ""}, ()),
    ("SubjectPromptInfix", {"prompt": "a [Subject ] {dog"}, ()),
    ("SubjectScene", {"prompt": "a {dog} and a {b}"}, ("subject_b",)),
    ("SubjectP2PEdit", {"target_category": ""}, ("subject",)),
    ("SubjectP2PEdit", {"blend_words": "snwo", "target_category": ""}, ("subject",)),  # the subject may be called so
    ("SubjectP2PEdit", {"prompt": "on a (red:1.3) sofa", "reweight": "red sofa: 2, dog: 1", "blend_words": "a",
                        "target_category": "dog"}, ()),
    ("SubjectP2PEdit", {"prompt": "sur un CAFÉ", "reweight": "café: 2", "target_category": "dog"}, ()),
]  # fmt: skip


@pytest.fixture
def prompt_of(executor, graph):
    """API prompt of one node; optional inputs that `graph` always connects are left out unless they are asked for."""

    def build(name, typed, connected):
        prompt = copy.deepcopy(graph(name, optional=connected))
        inputs = prompt["node"]["inputs"]
        for extra in {"masks", "subject"} - set(connected):
            if name in ("SubjectMatte", "SubjectP2PEdit"):
                inputs.pop(extra, None)
        prompt["node"]["inputs"] = inputs | typed
        return prompt

    return build


@pytest.mark.parametrize("name, typed, connected, wrong, sentence", REFUSED)
def test_refused_at_validation(executor, prompt_of, name, typed, connected, wrong, sentence):
    failures = executor.run(prompt_of(name, typed, connected))
    said = {message.partition(" - ")[2] for kind, message in failures if kind == "custom_validation_failed"}
    assert len(said) == 1 and len(failures) >= 1, failures
    (text,) = said
    assert text.startswith(f"{wrong}: ") and sentence in text
    assert any(message.startswith(f"Custom validation failed for node: {wrong} - ") for _, message in failures)


def test_a_missing_model_is_reported_on_its_own_input_alone(executor, prompt_of):
    ((_, message),) = executor.run(prompt_of("SubjectModelLoader", {"model_name": "gone"}, ()))
    assert message.startswith("Custom validation failed for node: model_name - ")


@pytest.mark.parametrize("name, typed, connected", ACCEPTED)
def test_not_refused_at_validation(executor, prompt_of, name, typed, connected):
    import asyncio

    prompt = prompt_of(name, typed, connected)
    valid, error, *_ = asyncio.run(executor.validate("checked", prompt, None))
    assert valid, error


@pytest.mark.parametrize(
    "name, chosen",
    [
        ("SubjectModelLoader", ("model_name", "base_model")),
        ("GILLLoader", ("checkpoint", "language_model")),
        ("MSDiffusionLoader", ("adapter_name",)),
    ],
)
def test_a_choice_that_comes_through_a_link_is_not_refused(executor, graph, name, chosen):
    import asyncio

    valid, error, _, node_errors = asyncio.run(executor.validate("checked", graph(name, linked=chosen), None))
    assert valid, (error, node_errors)


def test_an_error_has_no_module_before_its_class(executor, prompt_of):
    prompt = prompt_of("SubjectPromptInfix", {"prompt": "embedding: dog"}, ())
    prompt["sink"]["inputs"] = {"value0": ["node", 0]}
    assert [kind for kind, _ in executor.run(prompt)] == ["SubjectError"]
    failed = [data for event, data in executor.executor.status_messages if event == "execution_error"]
    assert failed[0]["exception_type"] == "SubjectError" and failed[0]["exception_message"].startswith("In prompt,")
