"""transformers' tests of models and configurations, on ours."""

import copy
import tempfile
import unittest
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import nn
from transformers.models.auto import modeling_auto, processing_auto

from ila_hf import (
    ILAConfig,
    ILAForVideoClassification,
    ILAForVideoTextClassification,
    ILAModel,
    ILATextConfig,
    ILATextModel,
    ILAVisionConfig,
    ILAVisionModel,
)
from ila_hf.demo.drawing import write_video
from ila_hf.demo.motion_clips import draw_clip
from ila_hf.demo.tiny import tiny_config, tiny_processor

from . import upstream


mixins = upstream.load()
common = mixins.modeling_common


@pytest.fixture(autouse=True)
def _same_batches():
    """The mixins draw their batches with a generator that nobody seeds."""
    common.global_rng.seed(0)


EOS = 3


def end_texts(input_ids):
    """Put the end-of-text token, whose state represents a text, at the end and nowhere else."""
    input_ids[input_ids == EOS] = EOS + 1
    input_ids[:, -1] = EOS
    return input_ids


class ILAVisionModelTester:
    batch_size = 3
    num_frames = 2
    image_size = 16
    patch_size = 4
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 4
    seq_length = 1 + 4 * 4
    is_training = True

    def __init__(self, parent, **fields):
        self.parent = parent
        self.fields = fields

    def get_config(self):
        return ILAVisionConfig(
            hidden_size=self.hidden_size,
            intermediate_size=37,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            image_size=self.image_size,
            patch_size=self.patch_size,
            alignment_hidden_size=16,
            **self.fields,
        )

    def prepare_config_and_inputs_for_common(self):
        shape = [self.batch_size, self.num_frames, 3, self.image_size, self.image_size]
        return self.get_config(), {"pixel_values": common.floats_tensor(shape)}


class ILATextModelTester:
    batch_size = 3
    seq_length = 7
    vocab_size = 99
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 4
    is_training = True

    def __init__(self, parent):
        self.parent = parent

    def get_config(self):
        return ILATextConfig(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=37,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            max_position_embeddings=64,
            bos_token_id=0,
            pad_token_id=1,
            eos_token_id=EOS,
        )

    def prepare_config_and_inputs_for_common(self):
        input_ids = end_texts(common.ids_tensor([self.batch_size, self.seq_length], self.vocab_size))
        return self.get_config(), {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}


class ILAModelTester:
    is_training = True

    def __init__(self, parent, **vision):
        self.parent = parent
        self.text_model_tester = ILATextModelTester(parent)
        self.vision_model_tester = self.video_model_tester = ILAVisionModelTester(parent, **vision)
        for name in ("batch_size", "seq_length", "hidden_size", "num_hidden_layers", "num_attention_heads"):
            setattr(self, name, getattr(self.vision_model_tester, name))

    def get_config(self):
        return ILAConfig(
            text_config=self.text_model_tester.get_config().to_dict(),
            vision_config=self.vision_model_tester.get_config().to_dict(),
            projection_dim=32,
            num_frames=self.vision_model_tester.num_frames,
            num_labels=self.batch_size,
        )

    def prepare_config_and_inputs_for_common(self):
        _, texts = self.text_model_tester.prepare_config_and_inputs_for_common()
        _, videos = self.vision_model_tester.prepare_config_and_inputs_for_common()
        return self.get_config(), {**texts, **videos, "return_loss": True}


class ModelTests(common.ModelTesterMixin, mixins.fsdp_mixin.FSDPTesterMixin):
    """What every model is tested for.

    All tests of FSDP are for causal language models and skip themselves; tests/training/test_distributed.py has ours.
    """


class TrunkTests(ModelTests):
    """Where the outputs are those of the visual trunk."""

    appended_tokens = 1

    def test_attention_outputs(self):
        # The appended tokens are keys and values only
        keys = self.model_tester.seq_length + self.appended_tokens
        with mock.patch.object(self.model_tester, "key_length", keys, create=True):
            super().test_attention_outputs()


class PatchEmbeddingTests:
    """Where the only embeddings are those of the patches."""

    test_resize_embeddings = False  # there are no tokens

    def test_model_get_set_embeddings(self):
        # The mixin wants an nn.Embedding
        for model_class in self.all_model_classes:
            model = model_class(self.model_tester.get_config())
            assert isinstance(model.get_input_embeddings(), nn.Conv2d)
            embeddings = copy.deepcopy(model.get_input_embeddings())
            model.set_input_embeddings(embeddings)
            assert model.get_input_embeddings() is embeddings
            assert model.get_output_embeddings() is None


class TextInputTests:
    """Where texts are inputs beside the clips."""

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        end_texts(inputs["input_ids"])  # the mixin fills batches with texts of its own
        return inputs


class OverfitTests(mixins.training_mixin.TrainingTesterMixin):
    """Training until one batch is known by heart; the mixin makes batches of texts only, so they are made here."""

    model_tester = None  # abstract in the mixin
    training_overfit_steps = 200
    training_overfit_log_freq = 200
    training_overfit_learning_rate = 1e-3  # at twice that, one random batch in twenty is not known in the end
    training_grad_norm_reduction_threshold = 0.5  # it is small at the start already, by the spread of a new classifier

    def _get_model_modality(self):
        return "text"

    def _create_text_training_batch(self, batch_size, seq_length, vocab_size):
        _, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        inputs = self._prepare_for_class(inputs, self.all_model_classes[0])
        labels = torch.arange(self.model_tester.batch_size)
        clips = inputs.pop("pixel_values") + labels[:, None, None, None, None]  # some brighter than others
        return {**inputs, "pixel_values": clips, "labels": labels}

    def test_training_overfit(self):
        config = self.model_tester.get_config()
        config.vocab_size = config.text_config.vocab_size  # looked up on the way to the text batch
        config.vision_config.initializer_range = 0.1  # CLIP's 0.02 is made for wide towers
        config.classifier_dropout = 0.0
        config.alignment_loss_weight = 0.0  # it has a floor: the frames of a clip of noise are not alike
        with mock.patch.object(self.model_tester, "get_config", return_value=config):
            super().test_training_overfit()


class ILAVisionModelTest(PatchEmbeddingTests, TrunkTests, unittest.TestCase):
    all_model_classes = (ILAVisionModel,)

    def setUp(self):
        self.model_tester = ILAVisionModelTester(self)
        self.config_tester = mixins.configuration_common.ConfigTester(
            self, config_class=ILAVisionConfig, has_text_modality=False, hidden_size=36
        )

    def test_config(self):
        self.config_tester.run_common_tests()


class ILATextModelTest(ModelTests, unittest.TestCase):
    all_model_classes = (ILATextModel,)

    def setUp(self):
        self.model_tester = ILATextModelTester(self)
        self.config_tester = mixins.configuration_common.ConfigTester(self, config_class=ILATextConfig, hidden_size=40)

    def test_config(self):
        self.config_tester.run_common_tests()


class ILAModelTest(TextInputTests, ModelTests, unittest.TestCase):
    all_model_classes = (ILAModel,)
    additional_model_inputs = ["pixel_values"]
    _is_composite = True

    def setUp(self):
        self.model_tester = ILAModelTester(self)
        self.config_tester = mixins.configuration_common.ConfigTester(
            self,
            config_class=ILAConfig,
            has_text_modality=False,
            common_properties=["projection_dim", "logit_scale_init_value", "num_frames", "prompt_alpha"],
        )

    def test_config(self):
        self.config_tester.run_common_tests()

    def _towers(self, **kwargs):
        """The outputs of both towers with the number of tokens of their attention."""
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        outputs = ILAModel._from_config(config, attn_implementation="eager")(**inputs, **kwargs)
        vision, text = self.model_tester.vision_model_tester, self.model_tester.text_model_tester
        return [
            (outputs.vision_model_output, vision, vision.seq_length + 1),
            (outputs.text_model_output, text, text.seq_length),
        ]

    # In these three the mixin looks into the output of the model, not into those of its towers
    def test_attention_outputs(self):
        for outputs, tester, length in self._towers(output_attentions=True):
            assert len(outputs.attentions) == tester.num_hidden_layers
            for attention in outputs.attentions:
                # The appended tokens are keys and values only
                assert attention.shape[-3:] == (tester.num_attention_heads, tester.seq_length, length)

    def test_hidden_states_output(self):
        for outputs, tester, _ in self._towers(output_hidden_states=True):
            assert len(outputs.hidden_states) == tester.num_hidden_layers + 1
            for states in outputs.hidden_states:
                assert states.shape[-2:] == (tester.seq_length, tester.hidden_size)

    def test_retain_grad_hidden_states_attentions(self):
        for outputs, _, _ in self._towers(output_hidden_states=True, output_attentions=True):
            for kept in (outputs.hidden_states[0], outputs.attentions[0]):
                kept.retain_grad()
                outputs.pooler_output.sum().backward(retain_graph=True)
                assert kept.grad.any()

    # The mixin takes no loss of a model without a head; this one has a contrastive loss
    def test_training(self):
        with mock.patch.dict(modeling_auto.MODEL_MAPPING_NAMES):
            del modeling_auto.MODEL_MAPPING_NAMES["ila"]
            super().test_training()

    def check_training_gradient_checkpointing(self, gradient_checkpointing_kwargs=None):
        with mock.patch.dict(modeling_auto.MODEL_MAPPING_NAMES):
            del modeling_auto.MODEL_MAPPING_NAMES["ila"]
            super().check_training_gradient_checkpointing(gradient_checkpointing_kwargs)


class ILAForVideoTextClassificationTest(TextInputTests, OverfitTests, TrunkTests, unittest.TestCase):
    all_model_classes = (ILAForVideoTextClassification,)
    additional_model_inputs = ["input_ids"]
    _is_composite = True

    def setUp(self):
        self.model_tester = ILAModelTester(self)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        inputs.pop("return_loss", None)  # of ILAModel
        return inputs


class ILAForVideoClassificationTest(PatchEmbeddingTests, OverfitTests, TrunkTests, unittest.TestCase):
    all_model_classes = (ILAForVideoClassification,)
    vision: dict = {}

    def setUp(self):
        self.model_tester = ILAModelTester(self, **self.vision)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        for name in ("return_loss", "input_ids", "attention_mask"):  # of ILAModel
            inputs.pop(name, None)
        return inputs


class ReleasedILAForVideoClassificationTest(ILAForVideoClassificationTest):
    vision = {"architecture": "released", "alignment_conv": "dense"}
    appended_tokens = 0


class CausalILAForVideoClassificationTest(ILAForVideoClassificationTest):
    vision = {"first_frame": "self", "interaction_token": True, "mask_distance": "euclidean"}
    appended_tokens = 2


class ILAPipelineTest(mixins.pipeline_mixin.PipelineTesterMixin, unittest.TestCase):
    pipeline_model_mapping = {"video-classification": (ILAForVideoTextClassification, ILAForVideoClassification)}

    @classmethod
    def setUpClass(cls):
        stack = ExitStack()
        cls.addClassCleanup(stack.close)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        videos = [folder / f"{i}.mp4" for i in range(2)]
        for i, video in enumerate(videos):
            frames, _, fps = draw_clip(i)
            write_video(video, frames, fps)
        config = tiny_config(num_labels=4)
        for model_class in cls.pipeline_model_mapping["video-classification"]:
            model = model_class(config)
            if hasattr(model, "set_class_texts"):
                model.set_class_texts(["a", "b", "c", "d"], tiny_processor(config))
            # The mixin takes no model without a tokenizer or an image processor
            for part in (model, tiny_processor(config)):
                part.save_pretrained(folder / config.model_type / model_class.__name__)
        mixin = mixins.pipeline_mixin
        summary = {"tokenizer_classes": ["CLIPTokenizer"], "processor_classes": []}
        names = [model_class.__name__ for model_class in cls.pipeline_model_mapping["video-classification"]]
        tests = upstream.VideoClassificationPipelineTests
        is_path = isinstance(mixin.pipeline_test_mapping["video-classification"]["test"], str)
        test = {"test": f"{tests.__module__}.{tests.__name__}" if is_path else tests}
        for patch in (
            mock.patch.object(mixin, "TRANSFORMERS_TINY_MODEL_PATH", str(folder)),
            mock.patch.dict(mixin.tiny_model_summary, dict.fromkeys(names, summary)),
            mock.patch.dict(mixin.pipeline_test_mapping, {"video-classification": test}),
            mock.patch.dict(processing_auto.PROCESSOR_MAPPING_NAMES, {"ila": "ILAProcessor"}),
            mock.patch.object(tests, "videos", videos),
        ):
            stack.enter_context(patch)

    def run_pipeline_test(self, *args, **kwargs):
        try:
            super().run_pipeline_test(*args, **kwargs)
        except unittest.SkipTest as skipped:
            self.fail(f"The models are here, so there is nothing to skip: {skipped}")


@pytest.mark.parametrize(
    "case",
    [ILAModelTest, ILAForVideoTextClassificationTest, ILAForVideoClassificationTest],
    ids=lambda case: case.__name__,
)
def test_labels_reach_the_loss(case):
    """Without our names in transformers' tables, the mixins would build no labels, train nothing and pass."""
    case = case()
    case.setUp()
    (model_class,) = case.all_model_classes
    config, inputs = case.model_tester.prepare_config_and_inputs_for_common()
    inputs = case._prepare_for_class(inputs, model_class, return_labels=True)
    outputs = model_class(config).eval()(**inputs)
    if model_class is ILAModel:
        labels, logits = torch.arange(3), outputs.logits_per_video
        expected = sum(nn.functional.cross_entropy(each, labels) for each in (logits, logits.T)) / 2
    else:
        assert torch.equal(inputs["labels"], torch.zeros(3, dtype=torch.long))
        expected = -outputs.logits.log_softmax(1)[:, 0].mean()
    torch.testing.assert_close(outputs.loss, expected + config.alignment_loss_weight * outputs.alignment_loss)
