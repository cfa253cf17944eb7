"""Run by test_video_clips.py under torchrun: notes which clips each process decodes.

python -m torch.distributed.run --nproc_per_node=2 stream_in_two_processes.py FOLDER WORKERS
"""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator, DataLoaderConfiguration

from ila_hf import ILAVideoProcessor
from ila_hf.data.video_clips import ClipReader, collate_clips, stream_clips, video_name
from ila_hf.data.video_data import load_video_dataset


class NotingReader(ClipReader):
    """Notes the name of every clip that it decodes."""

    def __call__(self, row):
        with self.file.open("a") as lines:
            lines.write(video_name(row["video"]) + "\n")
        return super().__call__(row)


def main():
    folder, workers = Path(sys.argv[1]), int(sys.argv[2])
    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(dispatch_batches=False))
    data = load_video_dataset(
        "webdataset", data_files=str(folder / "*.tar"), streaming=True, label_names=["a", "b", "c"]
    )
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    reader = NotingReader(ILAVideoProcessor(num_frames=4, **sizes), train=True)
    reader.file = folder / f"seen_{accelerator.process_index}.txt"
    clips = stream_clips(data, reader, num_processes=accelerator.num_processes)
    loader = torch.utils.data.DataLoader(clips, batch_size=2, num_workers=workers, collate_fn=collate_clips)
    count = sum(len(batch["labels"]) for batch in accelerator.prepare(loader))
    assert count == 6, count


if __name__ == "__main__":
    main()
