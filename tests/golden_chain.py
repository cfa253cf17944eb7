"""The golden models on their way: `push` them to a Hub, or `pull` them, with the code that came along, and run them.

python golden_chain.py push FOLDER    # FOLDER/<kind>: models to push as tester/golden-<kind>
python golden_chain.py pull FOLDER    # FOLDER/<kind>.safetensors: clips and labels; writes <kind>-<mode>.safetensors
"""

import json
import sys
from pathlib import Path


KINDS = ("k400", "ssv2")


def push(folder):
    """Upload model and processor."""
    from transformers import AutoModelForVideoClassification, AutoProcessor, AutoVideoProcessor

    import ila_hf  # noqa: F401 - registers ILA

    for kind in KINDS:
        auto_processor = AutoProcessor if kind == "k400" else AutoVideoProcessor
        AutoModelForVideoClassification.from_pretrained(folder / kind).push_to_hub(f"tester/golden-{kind}")
        auto_processor.from_pretrained(folder / kind).push_to_hub(f"tester/golden-{kind}")


def pull(folder):
    """Download both and run them, directly and as a pipeline, where the package is not installed."""
    sys.modules["ila_hf"] = None
    from golden_outputs import golden_outputs
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForVideoClassification, pipeline

    answers = {}
    for kind in KINDS:
        inputs = load_file(folder / f"{kind}.safetensors")
        repo = f"tester/golden-{kind}"
        for mode in ("eval", "train"):
            model = AutoModelForVideoClassification.from_pretrained(repo, trust_remote_code=True)
            assert type(model).__module__.startswith("transformers_modules"), type(model)
            values = golden_outputs(model, inputs["pixel_values"], inputs["labels"], mode == "train")
            save_file(values, folder / f"{kind}-{mode}.safetensors")
        classify = pipeline("video-classification", model=repo, trust_remote_code=True)
        answers[kind] = classify(list(inputs["pixel_values"]), top_k=1000)
    (folder / "answers.json").write_text(json.dumps(answers))


def export(folder):
    """Export what is on the Hub and run it without torch."""
    import onnxruntime
    from safetensors.numpy import load_file, save_file

    from ila_hf.__main__ import main

    for kind in KINDS:
        main(["export", "--model", f"tester/golden-{kind}", "--output_dir", str(folder / f"{kind}-onnx")])
        session = onnxruntime.InferenceSession(folder / f"{kind}-onnx" / "model.onnx")
        clips = load_file(folder / f"{kind}.safetensors")["pixel_values"]
        save_file({"logits": session.run(["logits"], {"pixel_values": clips})[0]}, folder / f"{kind}-onnx.safetensors")


if __name__ == "__main__":
    {"push": push, "pull": pull, "export": export}[sys.argv[1]](Path(sys.argv[2]))
