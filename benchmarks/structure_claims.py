"""How many images it would have taken to show what Skrr, HierarchicalPrune and Grafting claim about GenEval.

    python benchmarks/structure_claims.py

Prints the Markdown table of docs/surgery.md. Assumes a correlation of .4 between images of one prompt, and of the two runs .8
to .95 between prompts and .3 between images of one noise, as docs/measurement.md does; power 80 %, level .05, four images per
prompt.
"""

from geneval_reward.results.tables import markdown_table
from geneval_reward.stats import assumed_components, minimum_detectable_difference, required_images

CLAIMS = (
    ("Skrr, PixArt-Sigma, 27.0 % of the encoder", 0.539, 0.471),
    ("Skrr, PixArt-Sigma, 41.9 %", 0.539, 0.442),
    ("Skrr, SD3, 41.9 % of T5", 0.689, 0.611),
    ("Skrr against FinerCut at 27 %", 0.458, 0.471),
    ("Re-use against skipping alone", 0.438, 0.442),
    ("HierarchicalPrune, SD3.5-L-Turbo, 20 % and INT4", 0.71, 0.69),
    ("HierarchicalPrune, SD3.5-L-Turbo, 30 % and INT4", 0.71, 0.62),
    ("HierarchicalPrune, FLUX.1-schnell, all", 0.66, 0.64),
    ("Grafting, PixArt-Sigma, half of the attention", 0.4975, 0.4778),
)


def main():
    rows = []
    for name, before, after in CLAIMS:
        change, cells = after - before, []
        for correlation in (0.8, 0.95):
            parts = assumed_components((before + after) / 2, 0.4, prompt_correlation=correlation, noise_correlation=0.3)
            plan = required_images(abs(change), parts, images_per_prompt=4)
            cells += [f"{plan.images:,}", f"{100 * minimum_detectable_difference(parts.standard_error(553, 4)):.1f}"]
        points, percent = f"{100 * change:+.1f} points", f"{100 * change / before:+.1f} %"
        rows.append(
            [name, f"{before:g} to {after:g}", points, percent, f"{cells[0]} ({cells[2]})", f"{cells[1]} ({cells[3]})"]
        )
    print(
        markdown_table(
            ["claim", "GenEval", "points", "relative", "images per run", "smallest visible with 553 x 4, points"], rows
        )
    )


if __name__ == "__main__":
    main()
