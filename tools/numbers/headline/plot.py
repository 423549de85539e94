"""The curves as a picture."""

from tools.numbers.headline.methods import METHODS, TARGET_STEPS

ROWS = {
    "top1": "subject found among\n16 look-alikes",
    "palette_distance": "palette distance\n(lower is better)",
    "background": "place right",
}


def draw(curves, path):
    """Write a PNG: a row for each of `ROWS`, against steps on the left and against seconds of the processor on the
    right. Bands are standard errors over subjects."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(ROWS), 2, figsize=(10, 9), sharex="col", sharey="row")
    for row, (key, title) in zip(axes, ROWS.items(), strict=True):
        row[0].set_ylabel(title)
        for axis, unit in zip(row, ("steps", "seconds"), strict=True):
            axis.axhline(_target(curves, key), color="0.6", linewidth=1, linestyle=":")
            for number, method in enumerate(curves.methods):
                where = curves.steps[method] if unit == "steps" else curves.mean("seconds", method)
                mean, error = curves.mean(key, method), curves.error(key, method)
                colour = f"C{number}"
                axis.plot(where, mean, marker="o", markersize=3, color=colour, label=METHODS[method].title)
                axis.fill_between(where, mean - error, mean + error, color=colour, alpha=0.15, linewidth=0)
            axis.set_xscale("symlog", linthresh=10 if unit == "steps" else 1)
            axis.set_xlim(left=0)
            axis.grid(alpha=0.3)
    axes[-1][0].set_xlabel("steps (batch of 3)")
    axes[-1][1].set_xlabel("seconds of one core")
    axes[0][0].legend(fontsize=8)
    figure.suptitle(f"Learning a subject from 4 photos, mean of {len(curves.subjects)} held-out subjects")
    figure.tight_layout()
    figure.savefig(path, dpi=90, metadata={"Software": None})
    pyplot.close(figure)


def _target(curves, key):
    return curves.mean(key, "ours")[list(curves.steps["ours"]).index(TARGET_STEPS)]
