"""What streaming costs and what it changes.

    python benchmarks/streaming.py                       # all cases, an hour on two cores
    python benchmarks/streaming.py --cases frame
    python benchmarks/streaming.py --report              # only the tables, of the file that is there

- "frame": a causal B/32 on a clip of eight frames, and on the next frame of a stream; 400 class texts, or
  a linear head, also on onnxruntime, and compiled as a whole with its weights as constants. Beside them CLIP, which
  knows no other frame, on eight frames and on one.
- "frame_on_one_thread": the same.
- "windows": the pipeline with a window of eight frames that moves by one, cut and streamed.
- "memory": resident memory over 10 000 frames of a file, through `Stream`.
- "accuracy": tiny models trained on the motion set with either `first_frame`; held-out top-1 on clips that are cut,
  and on the same clips in a stream, behind a still (their first frame, eight times) or behind another clip.
"""

import json
import resource
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from cases import run_cases
from transformers import AutoModelForVideoClassification, CLIPVisionConfig, CLIPVisionModel, pipeline

from ila_hf import (
    ILACache,
    ILAConfig,
    ILAForVideoClassification,
    ILAForVideoTextClassification,
    ILAVideoProcessor,
    Stream,
)
from ila_hf.analysis.benchmark import Measurement, keep_freed_memory, markdown_table, measure
from ila_hf.conversion.export_ila import OnnxStream, export_onnx, onnx_runner
from ila_hf.data.video_clips import ClipReader, VideoClips, collate_clips
from ila_hf.data.video_data import load_videos
from ila_hf.demo.drawing import write_video
from ila_hf.demo.motion_clips import draw_clip
from ila_hf.demo.motion_videos import make_motion_videos
from ila_hf.demo.tiny import tiny_config, tiny_processor
from ila_hf.examples.run_video_classification import main as train


RESULTS = Path(__file__).parent / "results" / "streaming.json"
CLASSES = 400  # of Kinetics-400
PRESET = "ila-base-patch32"
SIZE = 224  # pixels of a frame of that
FRAMES = 10_000
TRAINING = {"num_train_epochs": 3, "train": 4000, "validation": 400}


def causal(model_class: Any, first_frame: str = "self") -> Any:
    """A model of random weights; its class texts are numbers."""
    torch.manual_seed(0)
    config = ILAConfig.from_preset(PRESET, num_labels=CLASSES, vision_config={"first_frame": first_frame})
    model = model_class(config).eval()
    if model_class is ILAForVideoTextClassification:
        end = config.text_config.eos_token_id
        model.set_class_texts([[config.text_config.bos_token_id, 1000 + i, end] for i in range(CLASSES)])
    return model.fuse()


def time_frames_on_one_thread(rounds: int) -> dict[str, Any]:
    """The same where no thread waits for another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = [{**row, "case": f"{row['case']}, one thread"} for row in time_frames(rounds)["measurements"]]
    finally:
        torch.set_num_threads(threads)
    return {"measurements": found}


def time_frames(rounds: int) -> dict[str, Any]:
    """A clip of eight frames beside the next frame of a stream that has seen as many."""
    found = []
    clip = torch.randn(1, 8, 3, SIZE, SIZE)
    for head, model_class in {"texts": ILAForVideoTextClassification, "linear": ILAForVideoClassification}.items():
        model, cache = causal(model_class), ILACache()

        def step(frames: torch.Tensor, cache: ILACache | None = None, model: Any = model) -> None:
            with torch.inference_mode():
                model(frames, cache=cache)

        step(clip, cache)
        steps = {"clip": lambda step=step: step(clip), "next frame": lambda s=step, c=cache: s(clip[:, :1], c)}
        found += measure(head, steps, rounds)
        found += measure(f"{head}, onnxruntime", onnx_steps(model, clip), rounds)
    torch._dynamo.reset()
    model.compile(dynamic=False)
    with torch._inductor.config.patch(freezing=True):
        found += measure("linear, compiled", steps, rounds)

    plain = CLIPVisionModel(CLIPVisionConfig(image_size=SIZE)).eval()

    def encode(frames: torch.Tensor) -> None:
        with torch.inference_mode():
            plain(frames)

    found += measure("CLIP", {"clip": lambda: encode(clip[0]), "next frame": lambda: encode(clip[0, :1])}, rounds)
    return {"measurements": [asdict(each) for each in found]}


def onnx_steps(model: Any, clip: torch.Tensor) -> dict[str, Callable[[], Any]]:
    """The same two, exported."""
    with TemporaryDirectory() as folder:
        export_onnx(model, Path(folder, "clip.onnx"), num_frames=clip.shape[1])
        export_onnx(model, Path(folder, "stream.onnx"), stream=True)
        run, stream = onnx_runner(Path(folder, "clip.onnx")), OnnxStream(Path(folder, "stream.onnx"))
    frame, state = clip[:, :1], stream.initial_state()
    for _ in range(clip.shape[1]):
        _, state = stream(frame, state)
    return {"clip": lambda: run(clip), "next frame": lambda: stream(frame, state)}


def time_windows(rounds: int) -> dict[str, Any]:
    """A film of 96 frames, 8 a second, through windows of one second, eight a second."""
    with TemporaryDirectory() as folder:
        film = str(Path(folder, "film.mp4"))
        write_video(film, np.concatenate([draw_clip(number)[0][:16] for number in range(6)]), 8)
        steps = {}
        for name, first_frame in {"cut": "next", "streamed": "self"}.items():
            model = causal(ILAForVideoClassification, first_frame)
            classify = pipeline(
                "video-classification", model=model, video_processor=ILAVideoProcessor.from_config(model.config)
            )
            steps[name] = lambda classify=classify: classify(
                film, window_seconds=1.0, stride_seconds=0.125, batch_size=16
            )
        found = measure("89 windows", steps, rounds)
    return {"measurements": [asdict(each) for each in found]}


def resident_mebibytes() -> float:
    """Of this process, now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def watch_memory() -> dict[str, Any]:
    """Every 500 frames, of a tiny model: what is kept does not depend on its size."""
    torch.manual_seed(0)
    config = tiny_config({"first_frame": "self", "interaction_token": True})
    model = ILAForVideoTextClassification(config).eval()
    model.set_class_texts(["one", "two"], tiny_processor(config))
    stream = Stream(model, tiny_processor(config))
    found = {}
    with TemporaryDirectory() as folder:
        film = Path(folder, "film.mp4")
        clip = draw_clip(0)[0]
        write_video(film, np.concatenate([clip] * (FRAMES // len(clip) + 1))[:FRAMES], 25)
        for number, _ in enumerate(stream(film), 1):
            if number % max(FRAMES // 20, 1) == 0:
                found[str(number)] = round(resident_mebibytes(), 1)
    return {"mebibytes": found, "cache_kibibytes": round(stream.cache.nbytes / 1024, 1)}


@torch.inference_mode()
def measure_accuracy() -> dict[str, Any]:
    """Top-1 on held-out clips, cut out, and as they are in a stream behind something else."""
    found = {}
    with TemporaryDirectory() as name:
        folder = Path(name)
        make_motion_videos(folder / "videos", {split: TRAINING[split] for split in ("train", "validation")})
        for first_frame in ("self", "next"):
            model = trained(folder, first_frame)
            dataset = VideoClips(
                load_videos(folder / "videos" / "validation", [*model.config.id2label.values()]),
                ClipReader(tiny_processor(model.config).video_processor, train=False),
            )
            batches = torch.utils.data.DataLoader(dataset, batch_size=50, collate_fn=collate_clips)
            clips, labels = (torch.cat([batch[key] for batch in batches]) for key in ("pixel_values", "labels"))
            order = torch.randperm(len(clips), generator=torch.Generator().manual_seed(0))
            before = clips[order]  # another clip, of another class as a rule

            logits = {"as trained": model(clips).logits} if first_frame == "next" else {}
            model.set_first_frame("self")
            still = clips[:, :1].expand_as(clips)
            logits |= {"cut": model(clips).logits, "behind a still": streamed(model, still, clips)}
            logits |= {"behind another": streamed(model, before, clips)}
            found[f"trained with {first_frame!r}"] = {
                way: {"top1": round((each.argmax(-1) == labels).float().mean().item(), 4)}
                for way, each in logits.items()
            }
    return {"models": found}


def streamed(model: Any, before: torch.Tensor, clips: torch.Tensor) -> torch.Tensor:
    """Logits (B, K) after the last frame of clips that follow others in the same stream."""
    cache = ILACache()
    model(before, cache=cache, logits_to_keep=1)
    logits: torch.Tensor = model(clips, cache=cache, logits_to_keep=1).logits[:, 0]
    return logits


def trained(folder: Path, first_frame: str) -> Any:
    """A tiny model with the interaction token, by the recipe of `make demo`."""
    torch.manual_seed(0)
    config = tiny_config({"first_frame": first_frame, "interaction_token": True})
    ILAForVideoTextClassification(config).save_pretrained(folder / "untrained")
    tiny_processor(config).save_pretrained(folder / "untrained")
    flags = json.loads((Path(__file__).parents[1] / "examples" / "configs" / "demo.json").read_text())
    flags |= {
        "model_name_or_path": folder / "untrained",
        "train_dir": folder / "videos" / "train",
        "validation_dir": folder / "videos" / "validation",
        "output_dir": folder / first_frame,
        "num_train_epochs": TRAINING["num_train_epochs"],
        "disable_tqdm": True,
    }
    flags["freeze"] = "text"
    with torch.inference_mode(False), torch.enable_grad():
        train([word for name, value in flags.items() for word in (f"--{name}", str(value))])
    return AutoModelForVideoClassification.from_pretrained(folder / first_frame)


def tables(found: dict[str, Any]) -> str:
    """Those of docs/streaming.md."""
    parts = []
    for case in ("frame", "frame_on_one_thread", "windows"):
        if case in found:
            parts.append(markdown_table(Measurement(**row) for row in found[case]["measurements"]))
    if "accuracy" in found:
        models = found["accuracy"]["models"]
        ways = list(models["trained with 'next'"])
        lines = ["| top-1 in % | " + " | ".join(ways) + " |", "|---|" + "---|" * len(ways)]
        for model, results in models.items():
            cells = (f"{100 * results[way]['top1']:.1f}" if way in results else "" for way in ways)
            lines.append(f"| {model} | " + " | ".join(cells) + " |")
        parts.append("\n".join(lines))
    if "memory" in found:
        sizes = found["memory"]["mebibytes"]
        parts.append(
            "\n".join(["| frame | MiB |", "|---|---|", *(f"| {at} | {size} |" for at, size in sizes.items())])
        )
    return "\n\n".join(parts)


CASES = {
    "frame": time_frames,
    "frame_on_one_thread": time_frames_on_one_thread,
    "windows": lambda rounds: time_windows(rounds // 4 + 2),
    "memory": lambda rounds: watch_memory(),
    "accuracy": lambda rounds: measure_accuracy(),
}


def main() -> None:
    """Measure, write, print."""
    keep_freed_memory()
    run_cases(__doc__, CASES, RESULTS, tables, rounds=30)


if __name__ == "__main__":
    main()
