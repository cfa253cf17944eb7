# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What a model sees of a file. By itself, so that the processes that read import no more than that."""

import numpy as np

from ..video_processing_ila import ILAVideoProcessor
from ..video_reading import read_video
from ..video_sources import VideoLimits, VideoReadError


class ClipOfFile:
    """Reads what the model sees of a file, in any process.

    Args:
        processor: Of the model.
        limits: What a file may cost.
    """

    def __init__(self, processor: ILAVideoProcessor, limits: VideoLimits | None = None):
        self.processor, self.limits = processor, limits or VideoLimits()

    def __call__(self, path: str) -> tuple[np.ndarray | None, int | None, str | None]:
        """Views (V, T, 3, S, S), the number of frames of the file, and the error, one of the first and the last."""
        try:
            frames, metadata = read_video(path, self.processor.sample_frames, self.limits)
            pixel_values = self.processor(frames, do_sample_frames=False, return_tensors="pt")["pixel_values"]
        except (VideoReadError, ValueError) as error:
            return None, None, str(error)
        except Exception as error:  # of no use to one that reads: the row tells
            return None, None, f"Cannot read the video {path!r}: {type(error).__name__}: {error}"
        views = pixel_values if pixel_values.ndim == 5 else pixel_values[0]
        return views.numpy(), metadata.total_num_frames, None
