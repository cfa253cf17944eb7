"""Count the FLOPs of the visual trunk of the ten published variants and print them beside the published ones.

    python benchmarks/count_flops.py

Counted by torch.utils.flop_counter on the meta device and halved: multiply-adds of one view, 1e9. Published: Tables
1 to 3 of https://arxiv.org/abs/2304.10465.
"""

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPVisionConfig, CLIPVisionModel

from ila_hf import PRESET_NAMES, ILAConfig, ILAVisionModel


PUBLISHED = dict(zip(PRESET_NAMES, (40, 75, 149, 295, 673, 3130, 214, 438, 907, 3723), strict=True))


def trunk_flops(name: str, **arguments) -> float:
    """Multiply-adds, in 1e9, of the trunk of a preset for one view."""
    config = ILAConfig.from_preset(name, **arguments)
    return _count(ILAVisionModel, config.vision_config, 1, config.num_frames)


def clip_flops(name: str) -> float:
    """The same of CLIP's vision transformer, which sees as many frames, each by itself."""
    config = ILAConfig.from_preset(name)
    fields = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "image_size",
        "patch_size",
    )
    clip = CLIPVisionConfig(**{field: getattr(config.vision_config, field) for field in fields})
    return _count(CLIPVisionModel, clip, config.num_frames)


def _count(model_class: type, config: CLIPVisionConfig, *batch: int) -> float:
    with torch.device("meta"):
        model = model_class(config).eval()
        frames = torch.empty(*batch, 3, config.image_size, config.image_size)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(frames)
    return counter.get_total_flops() / 2e9


def main() -> None:
    """Print a markdown table."""
    print("| preset | published | paper | difference | + interaction token | released | CLIP |")
    print("|---|---|---|---|---|---|---|")
    for name, published in PUBLISHED.items():
        paper = trunk_flops(name)
        others = (
            trunk_flops(name, interaction_token=True),
            trunk_flops(name, architecture="released"),
            clip_flops(name),
        )
        cells = " | ".join(f"{value:.1f}" for value in others)
        print(f"| `{name}` | {published} | {paper:.1f} | {100 * (paper / published - 1):+.1f} % | {cells} |")


if __name__ == "__main__":
    main()
