"""Lay out the shipped workflows so that the front end opens them readable in a window of 1600x1000 pixels.

    python -m tools.arrange_workflows [WORKFLOW ...]

Reads `tools/workflow_layouts.py`, and writes positions, sizes, groups and the form of App Mode into workflows/*.json.
"""

from __future__ import annotations

import json
import sys

from tools.places import ROOT
from tools.problems import run_command
from tools.workflow_layouts import LAYOUTS, Across, Down, Group

WORKFLOWS = ROOT / "workflows"
TITLE = 30  # the bar above a node, which is no part of its size
GAP, GROUP_GAP = 12, 14
FRAME, FRAME_TOP = 12, 32  # inside a group: its edge, and its title
# The front end fits a template into three quarters of its window: 1600x1000 at 60 % are these, less its own margin.
LARGEST = (1970, 1210)
ASPECT = 1.62
# Least width and height by class, or name of a subgraph, as the front end draws the node in its classic canvas or in
# Nodes 2.0, whichever is more: with what a run shows, and with what a missing file adds. Texts of several lines may
# be lower than they are drawn at first.
LEAST = {
    "BatchImagesNode": (225, 100), "CLIPTextEncode": (225, 110), "CLIPVisionLoader": (270, 86), "Canny": (250, 90),
    "CheckpointLoaderSimple": (320, 126), "ControlNetApplyAdvanced": (270, 198), "ControlNetLoader": (283, 62),
    "EmptyLatentImage": (250, 118), "GILLGenerate": (290, 458), "GILLLoader": (340, 142), "GILLPrompt": (270, 200),
    "GILLIndex": (290, 86), "GILLRank": (270, 120),
    "GILLRetrieve": (290, 216), "GILLTurn": (270, 220), "RegexReplace": (300, 330), "ConditioningSetMask": (250, 110),
    "ConditioningCombine": (225, 54), "CreateBoundingBoxes": (420, 590),
    "ImageCompare": (300, 246), "ImageCompositeMasked": (272, 158), "ImageScale": (250, 146), "ImageScaleBy": (250, 90),
    "ImageToMask": (225, 62), "InvertMask": (225, 34), "KSampler": (270, 262), "LatentBatchSeedBehavior": (270, 62),
    "LatentUpscaleBy": (250, 90), "Left and right half": (250, 186),
    "LoadImage": (283, 322), "LoraLoader": (290, 138), "MSDiffusionApply": (290, 636),
    "MSDiffusionLoader": (350, 110), "MSDiffusionSubject": (270, 398), "MarkdownNote": (560, 278),
    "MaskComposite": (250, 138), "MaskPreview": (225, 234), "MaskToImage": (225, 34), "PreviewAny": (225, 150),
    "PreviewImage": (250, 266), "PrimitiveBoundingBox": (250, 146), "SamplerCustom": (272, 230),
    "SaveImage": (250, 302), "SetLatentNoiseMask": (225, 54), "SolidMask": (250, 118),
    "SubjectAttentionMaps": (270, 262), "SubjectAttentionView": (250, 126), "SubjectContactSheet": (250, 142),
    "SubjectEditResult": (270, 174), "SubjectEncoder": (270, 382), "SubjectFinetune": (290, 838),
    "SubjectInterpolate": (270, 294), "SubjectInvert": (283, 310), "SubjectLoad": (342, 106),
    "SubjectMatte": (291, 532), "SubjectModelLoader": (340, 222), "SubjectP2PEdit": (300, 516),
    "SubjectPromptInfix": (300, 294), "SubjectSamplerPNDM": (250, 58), "SubjectSave": (290, 170),
    "SubjectScene": (320, 460), "SubjectSchedulePNDM": (250, 114), "SubjectTransplant": (277, 186),
    "ThresholdMask": (225, 62), "VAEDecode": (225, 54), "VAEEncode": (225, 54), "VAELoader": (270, 62),
}  # fmt: skip
# Nodes that take the height that is left, and by how much: pictures before texts.
TALLER = {
    "SaveImage": 4, "PreviewImage": 4, "ImageCompare": 2, "LoadImage": 2, "MaskPreview": 2, "SubjectEncoder": 1,
    "SubjectFinetune": 1, "SubjectMatte": 1, "MSDiffusionApply": 1, "MarkdownNote": 1, "CLIPTextEncode": 1,
    "SubjectPromptInfix": 1, "SubjectScene": 1, "SubjectP2PEdit": 1, "GILLPrompt": 1, "PreviewAny": 1,
    "GILLTurn": 1, "CreateBoundingBoxes": 1,
}  # fmt: skip
WIDER = {"SaveImage": 4, "PreviewImage": 4, "ImageCompare": 2, "SubjectPromptInfix": 2, "SubjectScene": 2,
         "SubjectP2PEdit": 2, "MarkdownNote": 4, "CreateBoundingBoxes": 0}  # fmt: skip


class Arrangement:
    """One workflow's nodes, and the places and sizes that a layout gives them."""

    def __init__(self, workflow: dict, note: int):
        self.nodes = {node["id"]: node for node in workflow["nodes"]}
        subgraphs = workflow.get("definitions", {}).get("subgraphs", [])
        self.names = {subgraph["id"]: subgraph["name"] for subgraph in subgraphs}
        self.groups: list[dict] = []
        self.note = note  # least height of a note

    def least(self, part) -> tuple[float, float]:
        """Least width and height of a node with its title bar, or of an arrangement."""
        if isinstance(part, Group):
            width, height = self.least(part.inside)
            return width + 2 * FRAME, height + FRAME_TOP + FRAME
        if isinstance(part, int):
            kind = self._kind(part)
            width, height = LEAST[kind]
            return width, max(height, self.note if kind == "MarkdownNote" else 0) + TITLE
        sizes, along = [self.least(each) for each in part.parts], isinstance(part, Down)
        total = sum(size[along] for size in sizes) + self._gaps(part)
        across = max(size[not along] for size in sizes)
        return (across, total) if along else (total, across)

    def place(self, part, left: float, top: float, width: float, height: float) -> None:
        """Put a node or an arrangement into a rectangle."""
        if isinstance(part, Group):
            bounding = [round(side) for side in (left, top, width, height)]
            self.groups.append(
                {"id": len(self.groups) + 1, "title": part.title, "bounding": bounding, "color": part.colour,
                 "font_size": 24, "flags": {}}
            )  # fmt: skip
            width, height = width - 2 * FRAME, height - FRAME_TOP - FRAME
            self.place(part.inside, left + FRAME, top + FRAME_TOP, width, height)
        elif isinstance(part, int):
            node, kind = self.nodes[part], self._kind(part)
            node["pos"] = [round(left), round(top) + TITLE]
            node["size"] = [round(width), round(height - TITLE) if TALLER.get(kind) else LEAST[kind][1]]
        else:
            self._place_all(part, left, top, width, height)

    def _place_all(self, part, left, top, width, height) -> None:
        along = isinstance(part, Down)
        least = [self.least(each)[along] for each in part.parts]
        wants = [self._wants(each, along) for each in part.parts]
        spare = max((height if along else width) - sum(least) - self._gaps(part), 0)
        place = top if along else left
        for each, length, wanted in zip(part.parts, least, wants, strict=True):
            length += spare * wanted / (sum(wants) or 1)
            if along:
                self.place(each, left, place, width, length)
            else:
                self.place(each, place, top, length, height)
            place += length + self._gap(part)

    def _wants(self, part, along: bool) -> float:
        """How much of the spare height (along) or width a part takes."""
        if isinstance(part, Group):
            return self._wants(part.inside, along)
        if isinstance(part, int):
            kind = self._kind(part)
            return TALLER.get(kind, 0) if along else WIDER.get(kind, 1)
        each = [self._wants(inner, along) for inner in part.parts]
        return sum(each) if isinstance(part, Down) == along else max(each)

    def _kind(self, number: int) -> str:
        """A node's class, or the name of its subgraph."""
        kind = self.nodes[number]["type"]
        return self.names.get(kind, kind)

    def _gap(self, part) -> int:
        return GROUP_GAP if any(self._frames(each) for each in part.parts) else GAP

    def _gaps(self, part) -> int:
        return self._gap(part) * (len(part.parts) - 1)

    def _frames(self, part) -> bool:
        return isinstance(part, Group) or (isinstance(part, Across | Down) and any(map(self._frames, part.parts)))


def arranged(workflow: dict, layout) -> dict:
    """The workflow with places, sizes, groups and form of its layout; it is changed in place.

    Raises:
        ValueError: the layout lacks a node or has one that is not there, or is larger than a window shows readable.
    """
    arrangement = Arrangement(workflow, layout.note)
    if (named := sorted(_nodes_of(layout.tree))) != sorted(arrangement.nodes):
        raise ValueError(f"the layout has the nodes {named}, the workflow {sorted(arrangement.nodes)}")
    width, height = arrangement.least(layout.tree)
    if width > LARGEST[0] or height > LARGEST[1]:
        raise ValueError(f"{width}x{height} is more than {LARGEST[0]}x{LARGEST[1]}")
    width = min(max(width, ASPECT * height), LARGEST[0])
    height = min(max(height, width / ASPECT), LARGEST[1])
    arrangement.place(layout.tree, 0, 0, width, height)
    workflow["groups"] = arrangement.groups
    form = {"inputs": [list(each) for each in layout.inputs], "outputs": list(layout.outputs)}
    workflow["extra"] = {**workflow.get("extra", {}), "linearData": form}
    return workflow


def _nodes_of(part) -> list[int]:
    if isinstance(part, Group):
        return _nodes_of(part.inside)
    return [part] if isinstance(part, int) else [node for each in part.parts for node in _nodes_of(each)]


def main(names=tuple(sys.argv[1:])):
    """Lay out the named workflows, all that have a layout where none is named."""
    for name in names or LAYOUTS:
        path = WORKFLOWS / f"{name}.json"
        workflow = arranged(json.loads(path.read_text(encoding="utf-8")), LAYOUTS[name])
        path.write_text(json.dumps(workflow, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_command(main)
