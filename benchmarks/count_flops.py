"""Count the FLOPs of the visual trunk of the ten published variants and print them beside the published ones.

    python benchmarks/count_flops.py

Multiply-adds of one view, 1e9. Published: Tables 1 to 3 of https://arxiv.org/abs/2304.10465.
"""

from ila_hf import ILAConfig
from ila_hf.analysis import clip_flops, trunk_flops
from ila_hf.evaluation.published_cards import FIGURES


def main() -> None:
    """Print a markdown table."""
    print("| preset | published | paper | difference | + interaction token | released | CLIP |")
    print("|---|---|---|---|---|---|---|")
    for name, figures in FIGURES.items():
        paper = trunk_flops(ILAConfig.from_preset(name))
        others = (
            trunk_flops(ILAConfig.from_preset(name, interaction_token=True)),
            trunk_flops(ILAConfig.from_preset(name, architecture="released")),
            clip_flops(ILAConfig.from_preset(name)),
        )
        cells = " | ".join(f"{value:.1f}" for value in others)
        difference = 100 * (paper / figures.flops - 1)
        print(f"| `{name}` | {figures.flops:g} | {paper:.1f} | {difference:+.1f} % | {cells} |")


if __name__ == "__main__":
    main()
