"""Prompts that succeed, prompts that are cancelled: the memory of a running host ends where it was (Linux: /proc)."""

import urllib.request
from pathlib import Path

from tools.host import open_url
from tools.places import ROOT

WARM_UP, PROMPTS = 6, 10
# A run of this workflow leaves nothing: 1006 MB after the warm-up, 0.9 MB more after ten further prompts. The smallest
# leak that matters is a copy of the UNet for each prompt, 10 x 17 MB in half precision; the allocator gets 100 of them.
MARGIN_MB = 100


def resident_mb(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (kilobytes,) = (line.split()[1] for line in lines if line.startswith("VmRSS:"))
    return int(kilobytes) / 1024


def with_seed(prompt, seed):
    """The prompt with other noise and another place, so that nothing but the models comes from the host's cache."""
    for node in prompt.values():
        for name in ("seed", "noise_seed"):
            if name in node["inputs"]:
                node["inputs"][name] = seed
        if node["class_type"] == "SubjectPromptInfix":
            node["inputs"]["prompt"] = f"on a beach, {seed}"
    return prompt


def run(host, seed, cancelled):
    """Queue the first workflow, with a subject that is encoded anew; stop it while it samples, if asked."""
    prompt = with_seed(host.to_api(ROOT / "workflows" / "zero_shot.json"), seed)
    encoder = next(node for node in prompt.values() if node["class_type"] == "SubjectEncoder")
    encoder["inputs"]["category"] = f"mug {seed}"

    def stop(node, *_):
        if prompt[node]["class_type"] == "KSampler":
            open_url(urllib.request.Request(f"{host.url}/interrupt", data=b"{}", method="POST")).close()

    result = host.run_prompt(prompt, on_progress=stop if cancelled else None)
    assert result.status == ("interrupted" if cancelled else "success"), result.error


def test_ten_prompts_with_cancels_leave_memory_where_it_was(host):
    pid = host.host.process.pid
    for seed in range(WARM_UP):
        run(host, seed, cancelled=seed % 2 == 1)
    before = resident_mb(pid)
    for seed in range(WARM_UP, WARM_UP + PROMPTS):
        run(host, seed, cancelled=seed % 2 == 1)
    grown = resident_mb(pid) - before
    print(f"\n{before:.0f} MB after {WARM_UP} prompts, {grown:+.1f} MB after {PROMPTS} more")
    assert grown < MARGIN_MB
