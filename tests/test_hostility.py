"""Hostile input: every node, with random, extreme and wrong-typed values, through the host's own executor.

Each failure has to be a sentence for the artist: a refusal by the host's validation, or a SubjectError of the pack. The
values are the same in every run.
"""

import json
import math
import random
from pathlib import Path

import pytest
from fuzz_values import described, hostile_object, hostile_widget, is_widget, wild_objects

pytest_plugins = ["hostile_prompts"]
TRIALS = 40
SLOW_NODES = {"SubjectInvert": 12, "SubjectFinetune": 12}  # trials of those that sample or train


def node_names():
    """Read from the snapshot, because the host is not imported while tests are collected; test_widget_order.py sees to
    it that the snapshot is complete."""
    return sorted(json.loads((Path(__file__).parent / "reference" / "widgets.json").read_text(encoding="utf-8")))


def files_below(folder):
    return {path for path in Path(folder).rglob("*") if path.is_file()}


def require_sentence(kind, message):
    """A refusal that an artist can read: the host's own, or a SubjectError of several words."""
    assert not kind.startswith("exception_during"), (kind, message)
    if kind[0].isupper():  # an exception, not a type of refusal
        assert kind in ("SubjectError", "CheckpointError"), (kind, message)
        assert len(message.split()) > 4, message


@pytest.mark.parametrize("name", node_names())
def test_ordinary_inputs_run(executor, graph, name):
    """Else the hostile ones below would only show that nothing works."""
    assert executor.run(graph(name)) == []


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", node_names())
def test_random_extreme_and_wrong_inputs(comfy, executor, graph, proper, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)  # where a relative path would lead
    base = Path(comfy.folder_paths.base_path)
    before, wild = files_below(base), wild_objects()
    inputs = list(described(comfy.node(name).GET_NODE_INFO_V1()))
    for trial in range(SLOW_NODES.get(name, TRIALS)):
        dice = random.Random(f"{name} {trial}")
        chosen = dice.sample(inputs, min(len(inputs), dice.choice([1, 1, 2, 4])))
        hostile = {
            input_name: hostile_widget(dice, input_name, kind, options)
            if is_widget(kind)
            else hostile_object(dice, kind, wild, proper[0].values())
            for input_name, kind, options, _ in chosen
        }
        optional = [input_name for input_name, *_ in inputs if dice.random() < 0.4]
        linked = [input_name for input_name in hostile if dice.random() < 0.4]
        for failure in executor.run(graph(name, hostile, optional, linked)):
            require_sentence(*failure)
    output, temp = (Path(folder()) for folder in
                    (comfy.folder_paths.get_output_directory, comfy.folder_paths.get_temp_directory))  # fmt: skip
    allowed = (temp, output / "subjects", output / "gill")
    for path in files_below(base) - before:
        assert any(path.is_relative_to(folder) for folder in allowed), path
    assert not files_below(tmp_path)


@pytest.mark.parametrize("name", node_names())
def test_texts_without_end_are_refused_in_a_short_sentence(comfy, executor, graph, name):
    for input_name, kind, *_ in described(comfy.node(name).GET_NODE_INFO_V1()):
        if kind == "STRING":
            ((error, message),) = executor.run(graph(name, {input_name: "word " * 200_000}))
            assert error == "SubjectError" and message.startswith(f"The text of {input_name} has 1000000 letters")
            for failure in executor.run(graph(name, {input_name: "nosuchword:" * 2900})):
                require_sentence(*failure)
                assert len(failure[1]) < 2000


@pytest.mark.parametrize("name", node_names())
def test_linked_numbers_are_held_to_the_limits(comfy, executor, graph, name):
    """The host does so for those that are typed only; past it, a huge number would take all memory or run for ever."""
    for input_name, kind, options, _ in described(comfy.node(name).GET_NODE_INFO_V1()):
        if kind not in ("INT", "FLOAT"):
            continue
        beyond = [options["min"] - 1, options["max"] + 1, 2**70, -math.inf]
        for value in [*beyond, math.inf, math.nan] if kind == "FLOAT" else beyond[:3]:
            ((error, message),) = executor.run(graph(name, {input_name: value}, linked=[input_name]))
            assert error == "SubjectError" and message.startswith(f"{input_name} = ")
