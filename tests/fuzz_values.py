"""Random, extreme and wrong-typed values for every kind of input, from a seeded `random.Random`."""

import torch

_NUMBERS = [
    0, 1, -1, 2**31, 2**63, -(2**63), 2**64, 0.5, -0.0, 1e-300, 1e308, float("nan"), float("inf"), -float("inf"),
]  # fmt: skip
_TEXTS = [
    "", " ", "\n\t", "a\0b", "x" * 4000, "\N{TEAPOT}\u202e\u0301", "\ud800", "[subject]", "[subject] [subject]",
    "{a}{b}{", "}{", "((((", "(dog:1e999)", "(dog:nan)", "embedding:../../../etc/passwd", "embedding:", "%s%n%date:x%",
    "../x", "/etc/passwd", "C:\\x", "CON", "NaN", "-1", ", ,", "1,2,3,4,5,6,7,8,9", "snow: nan, : 2", "snow: 1e999",
]  # fmt: skip
_WRONG = [None, True, [], {}, [1, 2, 3], {"a": 1}, "text", 7]
_WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")

# What a valid value may cost: a test of thousands of steps would show nothing more than one of a single step.
_AFFORDABLE = {
    "steps": 1, "iterations": 1, "columns": 6, "rows": 6, "batch_size": 1, "rank": 8, "resolution": 64, "levels": 5,
    "preview_every": 0, "working_size": 256, "max_new_tokens": 4,
}  # fmt: skip


def described(info):
    """Name, type, options and whether it may be left out, of each input in a node's description by the host."""
    for group in ("required", "optional"):
        for name, (kind, *options) in info["input"].get(group, {}).items():
            yield name, kind, options[0] if options else {}, group == "optional"


def is_widget(kind):
    return kind in _WIDGETS


def ordinary_value(name, options):
    """The default of a widget, or what costs less."""
    value = options.get("default", (options.get("options") or [""])[0])
    if name == "category":
        return "dog"
    return min(value, _AFFORDABLE[name]) if name in _AFFORDABLE else value


def hostile_widget(random, name, kind, options):
    """A value for a widget: mostly one that the host lets pass, else a number, a text or a thing of another type."""
    if random.random() < 0.3:
        return random.choice([*_NUMBERS, *_TEXTS, *_WRONG])
    if kind == "COMBO":
        return random.choice([*options["options"], random.choice(_TEXTS)])
    if kind == "BOOLEAN":
        return random.choice([True, False])
    if kind == "STRING":
        return random.choice(_TEXTS)
    low, high = options.get("min", 0), options.get("max", 1)
    high = max(low, min(high, _AFFORDABLE.get(name, high)))
    picked = random.choice([low, high, random.uniform(low, high)])
    return int(picked) if kind == "INT" else picked


def hostile_object(random, kind, wild, others):
    """Something for a socket: of its type with content that makes no sense, or of another type."""
    if kind in wild and random.random() < 0.7:
        return random.choice(wild[kind])
    nonsense = [None, 0, 1.5, "text", b"bytes", [], {}, (), object(), torch.tensor(float("nan")), torch.empty(0), int]
    return random.choice([*nonsense, *others])


def wild_objects():
    """Values that make no sense, by socket type."""
    return {"IMAGE": _pictures(), "MASK": _masks(), "LATENT": _latents(), "CONDITIONING": _conditionings()}


def _noise(*shape, dtype=torch.float32):
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    return (noise if dtype.is_floating_point else noise * 200).to(dtype)


def _pictures():
    shapes = [(0, 64, 64, 3), (1, 0, 0, 3), (1, 1, 1, 3), (1, 64, 64, 1), (2, 64, 64, 4), (1, 64, 64, 2), (64, 64, 3),
              (1, 1, 64, 64, 3), (1, 3, 64, 64), (1, 17, 301, 3), (3, 40, 40, 3), (40, 33, 33, 3)]  # fmt: skip
    types = [torch.uint8, torch.bool, torch.complex64, torch.float64, torch.float16, torch.bfloat16, torch.int64]
    fills = [float("nan"), float("inf"), 1e30, -5.0, 0.0, 1.0]
    return [
        *(_noise(*shape) for shape in shapes),
        *(_noise(1, 64, 64, 3, dtype=dtype) for dtype in types),
        *(torch.full((1, 64, 64, 3), fill) for fill in fills),
        _noise(1, 64, 64, 3).permute(0, 2, 1, 3).requires_grad_(),
        _noise(1, 64, 64, 3).to_sparse(),
        torch.empty(1, 64, 64, 3, device="meta"),
    ]


def _masks():
    shapes = [(0, 64, 64), (64, 64), (1, 1, 64, 64), (2, 64, 64), (1, 64, 64, 3), (1, 0, 0), (1, 1, 1), (1, 30, 90)]
    fills = [float("nan"), float("inf"), -1.0, 2.0, 0.0, 1.0]
    return [
        *(_noise(*shape) for shape in shapes),
        *(_noise(1, 64, 64, dtype=dtype) for dtype in (torch.uint8, torch.bool, torch.float16, torch.complex64)),
        *(torch.full((1, 64, 64), fill) for fill in fills),
    ]


def _latents():
    shapes = [(0, 4, 8, 8), (1, 4, 0, 0), (1, 4, 1, 1), (1, 16, 8, 8), (4, 8, 8), (1, 4, 1, 8, 8), (3, 4, 8, 8),
              (1, 4, 9, 13)]  # fmt: skip
    return [
        {}, {"samples": None}, {"samples": [1, 2]}, {"sample": _noise(1, 4, 8, 8)}, _noise(1, 4, 8, 8),
        *({"samples": _noise(*shape)} for shape in shapes),
        *({"samples": torch.full((1, 4, 8, 8), fill)} for fill in (float("nan"), float("inf"), 1e30, 0.0)),
        {"samples": _noise(1, 4, 8, 8, dtype=torch.int64)},
        {"samples": _noise(1, 4, 8, 8), "noise_mask": _noise(1, 3, 3)},
        {"samples": _noise(1, 4, 8, 8), "noise_mask": "all"},
        {"samples": _noise(2, 4, 8, 8), "batch_index": [7]},
    ]  # fmt: skip


def _conditionings():
    rows = [_noise(1, 77, 768), _noise(1, 77, 32), _noise(77, 32), _noise(1, 0, 32), torch.full((2, 77, 64), torch.nan)]
    return [
        [], [[]], [[None, {}]], [["text", {}]], [[rows[0]]], [[rows[0], None]], {"cond": rows[0]},
        *([[row, {}]] for row in rows), [[rows[1], {"mask": 3, "area": "all", "pooled_output": None}]],
    ]  # fmt: skip
