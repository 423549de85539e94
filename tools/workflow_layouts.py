"""How the shipped workflows lie: for each, which nodes share a group, and which widgets and pictures make its form.

A number is the id of a node; `Across` and `Down` put what they hold side by side or one below the other; a `Group` is
framed and has a title. `tools/arrange_workflows.py` turns this into positions and sizes.
"""

from __future__ import annotations

from dataclasses import dataclass

# About as far from a dark canvas as from a light one: the front end writes a group's title in the group's colour.
BLUE, GREEN, AMBER, ORANGE, PURPLE = "#3f789e", "#4a8052", "#8f7020", "#b06634", "#a85aa8"


@dataclass(frozen=True)
class Across:
    """Side by side."""

    parts: tuple


@dataclass(frozen=True)
class Down:
    """One below the other."""

    parts: tuple


@dataclass(frozen=True)
class Group:
    """A frame with a title around one arrangement."""

    title: str
    colour: str
    inside: Across | Down | int


@dataclass(frozen=True)
class Layout:
    """A workflow: where all is, and its form in App Mode: widgets that an artist changes, and what comes out.

    Attributes:
        note: height of the note's text, where it is more than that of most.
    """

    tree: Across | Down
    inputs: tuple[tuple[int, str], ...]
    outputs: tuple[int, ...]
    note: int = 0


def across(*parts):
    return Across(parts)


def down(*parts):
    return Down(parts)


def model(node: int | Across) -> Group:
    return Group("Model", BLUE, node)


def things(inside, title="1  My thing") -> Group:
    return Group(title, BLUE, inside)


def scene(inside, number=2, title="The new scene") -> Group:
    return Group(f"{number}  {title}", GREEN, inside)


def step(title, inside) -> Group:
    return Group(title, AMBER, inside)


def source(title, inside) -> Group:
    return Group(title, ORANGE, inside)


def result(number, inside, title="The picture") -> Group:
    return Group(f"{number}  {title}", PURPLE, inside)


LAYOUTS = {
    "zero_shot": Layout(
        down(
            across(model(1), 12),
            across(
                things(down(2, 3)), scene(down(4, 5, 6)), result(3, across(down(7, 8, 9), down(10, 11))),
            ),
        ),
        ((2, "image"), (3, "category"), (4, "prompt"), (7, "seed")),
        (9,),
    ),
    "zero_shot_released_model": Layout(
        down(
            across(model(2), 1),
            across(things(down(3, 4)), scene(down(5, 6, 7)), result(3, across(down(8, 9, 10, 11), 12))),
        ),
        ((3, "image"), (4, "category"), (5, "prompt"), (10, "noise_seed")),
        (12,),
        note=312,
    ),
    "zero_shot_several_photos": Layout(
        down(
            across(model(1), 15),
            across(
                things(across(down(2, 3), down(4, 5), 6)), scene(down(7, 8, 9)),
                result(3, across(down(10, 11, 12), down(13, 14))),
            ),
        ),
        ((2, "image"), (3, "image"), (4, "image"), (6, "category"), (7, "prompt"), (10, "seed")),
        (12,),
    ),
    "load_saved_subject": Layout(
        down(
            across(model(1), 11),
            across(
                things(2, "1  My saved thing"), scene(down(3, 4, 5)), result(3, across(down(6, 7, 8), down(9, 10))),
            ),
        ),
        ((2, "subject_name"), (3, "prompt"), (6, "seed")),
        (8,),
    ),
    "attention_maps": Layout(
        down(
            across(model(1), 14),
            across(
                things(down(2, 3)), scene(down(4, 5, 6)), step("3  Record while sampling", down(7, 8, 9)),
                result(4, across(down(10, 12, 13), 11), "Look"),
            ),
        ),
        ((2, "image"), (3, "category"), (4, "prompt"), (8, "seed")),
        (11, 13),
    ),
    "matte_then_encode": Layout(
        down(
            across(model(1), 16),
            across(
                things(2), step("2  Cut it out", across(down(3, 4, 5, 7), 6, down(9, 8))), scene(down(10, 11, 12), 3),
                result(4, down(13, 14, 15)),
            ),
        ),
        ((2, "image"), (6, "category"), (9, "category"), (10, "prompt"), (13, "seed")),
        (15, 8),
    ),
    "interpolate_strip": Layout(
        down(
            across(model(1), 15),
            across(
                things(across(down(2, 3), down(4, 5)), "1  My things"), step("2  Blend", 6),
                scene(down(7, 8, 9, 10), 3),
                result(4, across(down(11, 12, 13), 14), "The pictures"),
            ),
        ),
        ((2, "image"), (3, "category"), (4, "image"), (5, "category"), (6, "columns"), (7, "prompt"), (11, "seed")),
        (14,),
    ),
    "interpolate_grid": Layout(
        across(
            down(
                things(across(down(2, 3), down(4, 5), down(6, 7), down(8, 9)), "1  My things"),
                result(4, across(15, down(16, 17), 18), "The pictures"),
            ),
            down(19, across(model(1), step("2  Blend", 10)), scene(across(down(11), down(12, 13, 14)), 3)),
        ),
        ((2, "image"), (4, "image"), (6, "image"), (8, "image"), (11, "prompt"), (15, "seed")),
        (18,),
    ),
    "style_transfer": Layout(
        across(
            down(across(model(1), 21), things(across(down(2, 3), down(4, 5), 6), "1  Two styles")),
            down(
                source("2  The structure", across(down(7, 11, 12), down(8, 9, 10))),
                scene(across(13, down(14, 15)), 3),
            ),
            result(4, down(16, 17, 18, 19, 20), "The pictures"),
        ),
        ((2, "image"), (4, "image"), (7, "image"), (13, "category"), (13, "prompt"), (17, "seed")),
        (20,),
    ),
    "inpaint_subject": Layout(
        down(
            across(model(1), 15),
            across(
                things(down(2, 3)), source("2  The picture", down(4, 5, 6)), scene(down(7, 8), 3, "What is around"),
                result(4, across(down(9, 10, 11), down(12, 13, 14))),
            ),
        ),
        ((2, "image"), (3, "category"), (4, "image"), (7, "prompt"), (9, "seed")),
        (12,),
    ),
    "regions_by_boxes": Layout(
        down(
            across(model(1), 16),
            across(
                things(across(down(2, 4), down(3, 5)), "1  My things"), step("2  Where they go", down(6, 7)),
                scene(down(8, 9, 10), 3), result(4, across(down(11, 12, 13), down(14, 15))),
            ),
        ),
        ((2, "image"), (4, "category"), (3, "image"), (5, "category"), (8, "prompt"), (11, "seed")),
        (13,),
    ),
    "hires_fix": Layout(
        down(
            across(model(1), 14),
            across(
                things(down(2, 3)), scene(down(4, 5, 6)), step("3  First pass", down(7, 10, 11)),
                result(4, across(down(8, 12, 9), 13), "Second pass"),
            ),
        ),
        ((2, "image"), (3, "category"), (4, "prompt"), (7, "seed"), (9, "denoise")),
        (13,),
    ),
    "subject_with_lora": Layout(
        down(
            across(model(across(1, 4)), 13),
            across(
                things(down(2, 3)), scene(down(5, 6, 7)), result(3, across(down(8, 9, 10), down(11, 12))),
            ),
        ),
        ((2, "image"), (3, "category"), (4, "strength_model"), (5, "prompt"), (8, "seed")),
        (10,),
    ),
    "subject_in_your_checkpoint": Layout(
        down(
            1,
            across(
                Group("1  Models", BLUE, down(3, 4, 2, 5)), things(down(6, 7), "2  My thing"),
                scene(down(8, 9, 10), 3), result(4, across(down(11, 12), 13)),
            ),
        ),
        ((6, "image"), (7, "category"), (5, "strength"), (8, "prompt"), (11, "seed")),
        (13,),
    ),
    "vectors_only_finetune": Layout(
        across(
            down(across(model(1), 17), things(across(down(2, 3), down(4, 5), 6))),
            step("2  Learn it", 7),
            down(
                scene(across(down(9), down(10, 11)), 3),
                result(4, across(down(12, 13, 8), down(14, 15, 16)), "The file and a picture"),
            ),
        ),
        (
            (2, "image"), (3, "image"), (4, "image"), (6, "category"), (7, "steps"), (8, "filename_prefix"),
            (9, "prompt"),
        ),
        (7, 14),
    ),
    "two_subjects": Layout(
        down(
            across(model(1), step("1  Where they go", 6), 18),
            across(
                things(across(down(2, 4), down(3, 5)), "2  My things"), scene(down(10, 11, 12), 3),
                result(4, across(down(13, 14, 15), down(16, 17))),
            ),
        ),
        ((2, "image"), (4, "category"), (3, "image"), (5, "category"), (10, "prompt"), (13, "seed")),
        (15,),
    ),
    "edit_generated_picture": Layout(
        down(
            across(model(1), 14),
            across(
                things(down(2, 3)), scene(across(4, down(5, 6, 7)), 2, "The edit"),
                result(3, across(down(8, 9, 11, 10), down(12, 13)), "Before and after"),
            ),
        ),
        ((2, "image"), (3, "category"), (4, "source_category"), (4, "prompt"), (6, "seed")),
        (10,),
    ),
    "edit_photo_keep_background": Layout(
        down(
            across(model(1), 15),
            across(
                things(down(2, 3)), source("2  The picture", down(4, 5, 6)),
                scene(across(7, down(8, 9)), 3, "The edit"),
                result(4, across(down(10, 12, 11), down(13, 14)), "Before and after"),
            ),
        ),
        (
            (2, "image"), (3, "category"), (4, "image"), (6, "source_category"), (7, "source_category"), (6, "prompt"),
            (7, "prompt"), (8, "seed"),
        ),
        (11,),
    ),
    "try_on": Layout(
        across(
            down(
                across(model(1), 18),
                across(
                    things(across(down(2, 5), down(3, 4), 6)), source("2  The picture", down(7, 8, 9)),
                ),
            ),
            scene(down(10, 11, 12), 3, "The edit"),
            result(4, down(13, 15, 14, 16), "Before and after"),
        ),
        (
            (2, "image"), (3, "image"), (4, "image"), (6, "category"), (7, "image"), (10, "prompt"), (11, "seed"),
        ),
        (14,),
    ),
    "finetune_then_generate": Layout(
        across(
            down(across(model(1), 15), things(across(down(2, 3), down(4, 5), 6))),
            step("2  Learn it", 16),
            down(scene(across(7, down(8, 9)), 3), result(4, across(down(10, 11, 12), down(13, 14)))),
        ),
        (
            (2, "image"), (3, "image"), (4, "image"), (6, "category"), (16, "method"), (16, "steps"), (7, "prompt"),
            (10, "seed"),
        ),
        (16, 12),
    ),
    "gill_released": Layout(
        down(
            1,
            across(
                Group("1  Models", BLUE, down(2, 3, 4)), scene(down(5, 6), 2, "What is said"),
                step("3  The reply", down(7, 8)), result(4, across(down(9, 10, 11), 12)),
            ),
        ),
        ((5, "image"), (6, "text"), (7, "mode"), (9, "seed")),
        (12, 11),
        note=382,
    ),
    "gill_conversation": Layout(
        across(
            down(
                across(Group("1  Models", BLUE, across(2, 3)), 1),
                across(
                    source("2  A picture and a question", down(4, 5)), step("3  GILL answers", down(6, 7)),
                    scene(down(8, 10), 4, "The next turn"),
                ),
            ),
            step("5  It answers and draws", down(9, 14)),
            result(6, down(11, 12, 13, 15)),
        ),
        ((4, "image"), (5, "text"), (8, "text"), (11, "seed")),
        (15,),
    ),
    "gill_keeps_the_look": Layout(
        across(
            down(
                across(Group("1  Models", BLUE, across(2, 3)), 1),
                across(
                    source("2  A picture and a question", down(4, 5)), step("3  GILL answers and draws", down(6, 7)),
                    scene(down(10, 11), 4, "Its reply is the subject's prompt"),
                ),
            ),
            result(5, down(12, 8, 9, 15), "By GILL alone"),
            result(6, down(13, 14, 16), "Its look stays"),
        ),
        ((4, "image"), (10, "category"), (5, "text"), (13, "seed")),
        (16, 15),
    ),
    "gill_retrieve_or_draw": Layout(
        across(
            down(
                across(Group("1  Models", BLUE, across(2, 3)), 1),
                across(
                    step("2  What is asked, and the advice", across(down(4, 6, 17), 5)),
                    source("3  Found in a folder", across(down(7, 8, 9), 10)),
                ),
            ),
            result(4, across(down(11, 12, 13, 14, 15), down(18, 16)), "Drawn, the best first"),
        ),
        ((4, "text"), (7, "folder"), (12, "seed")),
        (10, 18),
    ),
    "gill_scene_with_subject": Layout(
        across(
            down(
                across(Group("1  Models", BLUE, across(2, 3)), 1),
                across(
                    step("2  GILL's scene", across(down(4, 5), 6)), things(across(down(11, 12), 13), "3  My thing"),
                ),
            ),
            source("4  Two halves", down(7, 14, 15, 16, 17)),
            result(5, down(18, 19, 20, 21)),
        ),
        ((4, "image"), (5, "text"), (11, "image"), (12, "category"), (13, "prompt"), (18, "seed")),
        (21,),
    ),
    "several_subjects_in_boxes": Layout(
        across(
            down(
                across(Group("Models", BLUE, across(1, 2)), 15),
                across(things(across(down(3, 5), down(4, 6)), "1  My things"), source("2  Where they go", 7)),
            ),
            step("3  Onto the model", down(8, 9, 10, 11)),
            result(4, down(12, 13, 14)),
        ),
        ((3, "image"), (5, "phrase"), (4, "image"), (6, "phrase"), (7, "editor_state"), (9, "text"), (12, "seed")),
        (14,),
    ),
    "several_subjects_sdxl": Layout(
        across(
            down(
                1,
                across(Group("1  The models", BLUE, down(2, 3, 4)), scene(down(10, 11, 12), 4, "The scene")),
            ),
            things(across(down(5, 6), down(7, 8)), "2  My things and their boxes"),
            step("3  Onto the model", 9),
            result(5, down(13, 14, 15)),
        ),
        ((5, "image"), (7, "phrase"), (6, "image"), (8, "phrase"), (10, "text"), (13, "seed")),
        (15,),
    ),
}  # fmt: skip
