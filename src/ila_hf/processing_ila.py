# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0 (the "License"); you may not use
# this file except in compliance with the License. You may obtain a copy of the License at
# http://www.apache.org/licenses/LICENSE-2.0. Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS, WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND,
# either express or implied. See the License for the specific language governing permissions and limitations under the
# License.
"""Processor of ILA: its video processor and CLIP's tokenizer."""

from typing import Any

from transformers import AutoTokenizer
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin, Unpack

from .configuration_ila import WHERE, saved_settings
from .video_processing_ila import ILAVideoProcessor


class ILAProcessor(ProcessorMixin):
    """Videos to `pixel_values` (B, T, 3, S, S), texts to `input_ids` and `attention_mask` (K, S).

    Args:
        video_processor ([`ILAVideoProcessor`]): For `videos=`.
        tokenizer ([`~transformers.CLIPTokenizer`]): For `text=`.

    Example:

    ```python
    >>> from ila_hf import ILAProcessor

    >>> processor = ILAProcessor.from_pretrained("path/to/model")
    >>> inputs = processor(videos="clip.mp4", text=["juggling balls", "playing cello"], padding=True)
    >>> sorted(inputs)
    ['attention_mask', 'input_ids', 'pixel_values']
    ```
    """

    _auto_class = "AutoProcessor"  # transformers then saves the code beside the settings

    def __init__(self, video_processor: Any = None, tokenizer: Any = None, **kwargs: Any):
        super().__init__(video_processor, tokenizer, **kwargs)  # type: ignore[no-untyped-call]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As every processor. Of a plain CLIP, its tokenizer, and the video processor that its configuration gives."""
        if saved_settings(pretrained_model_name_or_path, kwargs).get("model_type") != "clip":
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        where = {name: kwargs[name] for name in WHERE if name in kwargs}
        video_processor = ILAVideoProcessor.from_pretrained(pretrained_model_name_or_path, **kwargs)
        return cls(video_processor, AutoTokenizer.from_pretrained(pretrained_model_name_or_path, **where))

    def __call__(
        self,
        images: Any = None,
        text: Any = None,
        videos: Any = None,
        audio: Any = None,
        **kwargs: Unpack[ProcessingKwargs],
    ) -> BatchFeature:
        """Process videos, texts, or both; as in every processor, what it has no part for is left out.

        Raises:
            ValueError: For neither videos nor texts.
        """
        if text is None and videos is None:
            given = f" (`images` is {images!r:.50})" if images is not None else ""
            raise ValueError(f"ILAProcessor got neither videos nor texts{given}: pass `videos=`, `text=` or both.")
        features: BatchFeature = super().__call__(images, text, videos, audio, **kwargs)
        return features

    def save_pretrained(self, *args: Any, **kwargs: Any) -> list[str]:
        """As every processor; one that has been saved stays equal to the one that is loaded."""
        files: list[str] = super().save_pretrained(*args, **kwargs)
        vars(self).pop("auto_map", None)  # transformers writes it and leaves it out when it loads
        return files


__all__ = ["ILAProcessor"]
