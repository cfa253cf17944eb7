"""transformers' tests of video processors and processors, on ours."""

import unittest

from ila_hf import ILAProcessor, ILAVideoProcessor
from ila_hf.demo.tiny import tiny_tokenizer

from . import upstream


mixins = upstream.load()
common = mixins.video_processing_common


class ILAVideoProcessingTester:
    batch_size = 5
    num_channels = 3
    size = {"shortest_edge": 20}
    crop_size = {"height": 18, "width": 18}

    def __init__(self):
        self.num_frames = 8

    def prepare_video_processor_dict(self):
        return {
            "size": self.size,
            "crop_size": self.crop_size,
            "do_resize": True,
            "do_center_crop": True,
            "do_normalize": True,
            "do_convert_rgb": True,
            "image_mean": [0.5, 0.4, 0.3],
            "image_std": [0.2, 0.3, 0.4],
            "num_frames": 4,
        }

    def expected_output_video_shape(self, videos):
        return self.num_frames, 3, self.crop_size["height"], self.crop_size["width"]

    def prepare_video_inputs(self, equal_resolution=False, return_tensors="pil"):
        return common.prepare_video_inputs(
            batch_size=self.batch_size,
            num_frames=self.num_frames,
            num_channels=self.num_channels,
            min_resolution=30,
            max_resolution=80,
            equal_resolution=equal_resolution,
            return_tensors=return_tensors,
        )


class RefusingVideoProcessor(ILAVideoProcessor):
    """Refuses clips shorter than `num_frames`, whose frames ours repeats, as the published models were tested."""

    def sample_frames(self, metadata, num_frames=None, **kwargs):
        if num_frames is not None and num_frames > metadata.total_num_frames:
            raise ValueError(f"{num_frames} frames of {metadata.total_num_frames}")
        return super().sample_frames(metadata, num_frames=num_frames, **kwargs)


class ILAVideoProcessingTest(common.VideoProcessingTestMixin, unittest.TestCase):
    fast_video_processing_class = ILAVideoProcessor
    input_name = "pixel_values"
    test_cast_dtype = True  # without it, the test of that name checks nothing

    def setUp(self):
        super().setUp()
        self.video_processor_tester = ILAVideoProcessingTester()

    @property
    def video_processor_dict(self):
        return self.video_processor_tester.prepare_video_processor_dict()

    def test_call_sample_frames(self):
        # The last thing that the mixin asks for is an error for short clips
        self.video_processor_list = [RefusingVideoProcessor]
        super().test_call_sample_frames()
        video = self.video_processor_tester.prepare_video_inputs(return_tensors="torch")[0]
        processor = ILAVideoProcessor(**self.video_processor_dict)
        inputs = processor(video, num_frames=10, do_sample_frames=True, return_tensors="pt")
        assert inputs.pixel_values.shape == (1, 10, 3, 18, 18)


class ILAProcessorTest(mixins.processing_common.ProcessorTesterMixin, unittest.TestCase):
    processor_class = ILAProcessor
    videos_input_name = "pixel_values"

    def test_processor_text_has_no_visual(self):
        if not hasattr(self.get_processor(), "image_processor"):  # 5.11 would try; later versions skip as here
            self.skipTest(f"{self.processor_class} doesn't support images with text.")
        super().test_processor_text_has_no_visual()

    @classmethod
    def _setup_tokenizer(cls):
        return tiny_tokenizer()

    @classmethod
    def _setup_video_processor(cls):
        return ILAVideoProcessor(size={"shortest_edge": 20}, crop_size={"height": 18, "width": 18}, num_frames=8)
