"""`make bench` keeps the notes of docs/benchmarks.md and makes its last section anew."""

from tools.bench import HEADING, PAGE, page_with


def test_notes_stay_and_the_last_section_is_new():
    once = page_with("# Benchmarks\n\nA table.\n", {"bench_a": ["ratio 1.2"]})
    twice = page_with(once, {"bench_a": ["ratio 1.3", "memory"], "bench_b": ["ratio 2"]})
    assert once.startswith(f"# Benchmarks\n\nA table.\n\n{HEADING}\n\n") and "    ratio 1.2\n" in once
    assert twice.count(HEADING) == 1 and twice.startswith("# Benchmarks\n\nA table.\n\n")
    assert "1.2" not in twice.partition(HEADING)[2].partition("`bench_a`")[2]
    assert "`bench_a`\n\n    ratio 1.3\n    memory\n\n`bench_b`\n\n    ratio 2\n" in twice


def test_the_page_says_where_its_numbers_come_from():
    section = page_with(PAGE.read_text(encoding="utf-8"), {}).partition(HEADING)[2]
    assert "cores of" in section or "x86_64" in section
    assert "torch " in section and "ComfyUI " in section
