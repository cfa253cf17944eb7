"""Processor and auto classes: everything loads from one folder."""

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForVideoClassification,
    AutoProcessor,
    AutoTokenizer,
    AutoVideoProcessor,
    CLIPImageProcessor,
    CLIPProcessor,
    pipeline,
)

from ila_hf import (
    ILAConfig,
    ILAForVideoClassification,
    ILAForVideoTextClassification,
    ILAModel,
    ILAProcessor,
    ILATextModel,
    ILAVideoProcessor,
    ILAVisionModel,
)
from ila_hf.demo.tiny import tiny_clip, tiny_config, tiny_processor, tiny_tokenizer


@pytest.fixture
def processor():
    return tiny_processor(tiny_config())


@pytest.fixture
def folder(tiny_model, processor, tmp_path):
    tiny_model().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    return tmp_path


def test_videos_and_texts(processor, video_file):
    inputs = processor(videos=video_file, text=["one", "two words"], padding=True, return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 8, 3, 32, 32)
    assert inputs["input_ids"].shape == inputs["attention_mask"].shape == (2, 10)
    assert processor.batch_decode(inputs["input_ids"], skip_special_tokens=True) == ["one", "two words"]
    assert set(processor.model_input_names) == {"input_ids", "attention_mask", "pixel_values"}


def test_saving_and_loading(processor, tmp_path, video_file):
    processor.save_pretrained(tmp_path)
    loaded = ILAProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict()
    for name, value in processor(videos=video_file, text="one", return_tensors="pt").items():
        assert torch.equal(loaded(videos=video_file, text="one", return_tensors="pt")[name], value)


def test_auto_classes(folder):
    assert type(AutoConfig.from_pretrained(folder)) is ILAConfig
    assert type(AutoModel.from_pretrained(folder)) is ILAModel
    assert type(AutoModelForVideoClassification.from_pretrained(folder)) is ILAForVideoTextClassification
    assert type(AutoVideoProcessor.from_pretrained(folder)) is ILAVideoProcessor
    assert type(AutoProcessor.from_pretrained(folder)) is ILAProcessor
    assert len(AutoTokenizer.from_pretrained(folder)) == 514


def test_auto_classes_take_configurations():
    config = tiny_config()
    assert type(AutoModel.from_config(config)) is ILAModel
    assert type(AutoModel.from_config(config.vision_config)) is ILAVisionModel
    assert type(AutoModel.from_config(config.text_config)) is ILATextModel
    assert type(AutoModelForVideoClassification.from_config(config)) is ILAForVideoTextClassification


def test_auto_class_of_a_linear_head(tiny_model, tmp_path):
    tiny_model(ILAForVideoClassification, num_labels=3).save_pretrained(tmp_path)
    assert type(AutoModelForVideoClassification.from_pretrained(tmp_path)) is ILAForVideoClassification


def test_pipeline(folder, video_file, caplog):
    classify = pipeline("video-classification", model=str(folder))
    model, processor = classify.model, AutoVideoProcessor.from_pretrained(folder)
    with torch.no_grad():
        scores = model(**processor(video_file, return_tensors="pt")).logits.softmax(1)[0]
    answers = classify(str(video_file), top_k=3)
    assert [answer["label"] for answer in answers] == [model.config.id2label[int(i)] for i in scores.topk(3).indices]
    assert [answer["score"] for answer in answers] == pytest.approx(scores.topk(3).values.tolist(), abs=1e-5)
    assert "not supported" not in caplog.text
    assert len(classify([str(video_file)] * 2, num_frames=4)) == 2


def test_neither_videos_nor_texts_are_refused():
    processor = tiny_processor(tiny_config())
    with pytest.raises(ValueError, match=r"neither videos nor texts \(`images` is 'clip.mp4'\): pass `videos=`"):
        processor("clip.mp4", return_tensors="pt")  # the first argument of every processor
    with pytest.raises(ValueError, match="neither videos nor texts: pass"):
        processor()


@pytest.mark.parametrize("kind", ["no processor", "image processor", "processor"])
def test_the_processor_of_a_plain_clip(tmp_path, kind, video_file):
    """That of its images has another mean and resizes to S, which would pass without a word."""
    tiny_clip().config.save_pretrained(tmp_path)
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    if kind != "no processor":
        (images if kind == "image processor" else CLIPProcessor(images, tokenizer)).save_pretrained(tmp_path)
    processor = ILAProcessor.from_pretrained(tmp_path)
    assert processor.video_processor.to_dict() == ILAVideoProcessor.from_config(tiny_config()).to_dict()
    assert processor(text="a b c").input_ids == tokenizer("a b c").input_ids
    assert ILAVideoProcessor.from_pretrained(tmp_path).to_dict() == processor.video_processor.to_dict()
    assert processor(videos=video_file, return_tensors="pt").pixel_values.shape == (1, 8, 3, 32, 32)
    sixteen = ILAVideoProcessor.from_pretrained(tmp_path, num_frames=16, local_files_only=True)
    assert sixteen.num_frames == ILAProcessor.from_pretrained(tmp_path, num_frames=16).video_processor.num_frames == 16
    ILAVideoProcessor(num_crops=3).save_pretrained(tmp_path)  # what was saved as ILA's is taken
    assert ILAVideoProcessor.from_pretrained(tmp_path).num_crops == 3
