"""Configurations: presets, what is refused at construction, what survives saving."""

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import CLIPConfig, CLIPVisionConfig

from ila_hf import PRESET_NAMES, ILAConfig, ILATextConfig, ILAVisionConfig


def test_presets_are_the_ten_published_variants():
    assert len(PRESET_NAMES) == 10
    for name in PRESET_NAMES:
        config = ILAConfig.from_preset(name)
        vision, is_ssv2 = config.vision_config, name.endswith("ssv2")
        assert vision.hidden_size == (1024 if "large" in name else 768)
        assert f"patch{vision.patch_size}" in name
        assert config.num_frames == (16 if "16-frames" in name else 8)
        assert vision.image_size == (336 if "336" in name else 224)
        assert vision.architecture == "paper"
        assert vision.alignment_conv == ("dense" if is_ssv2 else "separable")
        assert config.num_labels == (174 if is_ssv2 else 400)
        assert config.prompt_num_hidden_layers == (0 if is_ssv2 else 2)


def test_preset_arguments_replace_fields():
    config = ILAConfig.from_preset(
        "ila-base-patch16",
        interaction_token=True,
        num_frames=4,
        id2label={0: "a", 1: "b", 2: "c"},
        vision_config={"first_frame": "self"},
    )
    assert config.vision_config.interaction_token
    assert config.vision_config.first_frame == "self"
    assert (config.num_frames, config.num_labels) == (4, 3)
    assert ILAConfig.from_preset("ila-base-patch16", architecture="released").vision_config.architecture == "released"


def test_unknown_preset_lists_the_presets():
    with pytest.raises(ValueError, match=r"'ila-huge'.*ila-base-patch32, .*ila-large-patch14-336-16-frames-ssv2"):
        ILAConfig.from_preset("ila-huge")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"architecture": "published"}, r"architecture.*\('paper', 'released'\).*published"),
        ({"alignment_conv": "full"}, r"alignment_conv.*full"),
        ({"first_frame": "last"}, r"first_frame.*last"),
        ({"mask_distance": "l1"}, r"mask_distance.*l1"),
        ({"alignment_loss_type": "mse"}, r"alignment_loss_type.*mse"),
        ({"num_hidden_layers": "12"}, r"num_hidden_layers.*12"),
        ({"alignment_hidden_size": 12}, "`alignment_hidden_size` must be a positive multiple of 8, got 12"),
        ({"alignment_layers": [0, 12]}, "`alignment_layers` must be between 0 and num_hidden_layers - 1 = 11, got 12"),
        ({"alignment_layers": [1, 1]}, r"`alignment_layers` must be without repetitions, got \[1, 1\]"),
        ({"point_range": 1.5}, r"`point_range` must be in \(0, 1\], got 1.5"),
        ({"mask_peak": 0}, "`mask_peak` must be positive, got 0"),
        ({"mask_radius": -0.1}, "`mask_radius` must be zero or positive, got -0.1"),
        ({"architecture": "released", "first_frame": "self"}, "`first_frame` must be \"next\".*got 'self'"),
        ({"architecture": "released", "interaction_token": True}, "`interaction_token` must be False.*got True"),
        ({"image_size": 96, "patch_size": 32}, "`image_size` must be at least 4 patches.*128 pixels, got 96"),
        ({"image_size": [224, 224]}, r"`image_size` must be a positive integer.*got \[224, 224\]"),
    ],
)
def test_bad_vision_fields_are_refused(fields, message):
    with pytest.raises(StrictDataclassError, match=message):
        ILAVisionConfig(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_frames": 0}, "`num_frames` must be at least 1, got 0"),
        ({"num_frames": 2.5}, r"num_frames.*2\.5"),
        ({"mit_num_hidden_layers": 0}, "`mit_num_hidden_layers` must be at least 1, got 0"),
        (
            {"prompt_num_hidden_layers": -1},
            r"`prompt_num_hidden_layers` must be zero \(no prompt\) or positive, got -1",
        ),
        ({"projection_dim": 200}, "`projection_dim` must be a multiple of its number of heads.* = 3, got 200"),
        ({"classifier_dropout": 1.0}, r"`classifier_dropout` must be in \[0, 1\), got 1.0"),
        ({"alignment_loss_weight": -1.0}, "`alignment_loss_weight` must be zero or positive, got -1.0"),
        ({"problem_type": "regression"}, "`problem_type` must be .* got 'regression'"),
    ],
)
def test_bad_fields_are_refused(fields, message):
    with pytest.raises(StrictDataclassError, match=message):
        ILAConfig(**fields)


def test_top_level_fields_for_pipelines_and_trainer():
    config = ILAConfig(id2label={0: "jump", 1: "run"}, label2id={"jump": 0, "run": 1}, num_frames=16)
    assert config.id2label == {0: "jump", 1: "run"}
    assert config.num_frames == 16
    assert config.problem_type is None


def test_saving_and_loading(tmp_path):
    config = ILAConfig.from_preset("ila-base-patch32", interaction_token=True, vision_config={"alignment_layers": [3]})
    config.save_pretrained(tmp_path)
    loaded = ILAConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert isinstance(loaded.vision_config, ILAVisionConfig)
    assert isinstance(loaded.text_config, ILATextConfig)
    assert ILAVisionConfig.from_pretrained(tmp_path).alignment_layers == [3]


def test_plain_clip_configurations_are_taken_over(tmp_path):
    clip = CLIPConfig(projection_dim=256)
    clip.save_pretrained(tmp_path)
    loaded = ILAConfig.from_pretrained(tmp_path)
    assert loaded.projection_dim == 256
    assert (loaded.vision_config.model_type, loaded.text_config.model_type) == ("ila_vision_model", "ila_text_model")
    laion = {"vision_config": {"patch_size": 16}, "vision_config_dict": {"patch_size": 16, "hidden_act": "gelu"}}
    config = ILAConfig(text_config_dict=None, **laion)
    assert isinstance(config.vision_config, ILAVisionConfig)
    assert (config.vision_config.patch_size, config.vision_config.hidden_act) == (16, "gelu")
    config = ILAConfig(vision_config=CLIPVisionConfig(hidden_size=1024, num_attention_heads=16))
    assert isinstance(config.vision_config, ILAVisionConfig)
    assert config.vision_config.hidden_size == 1024


@pytest.mark.parametrize("fields", [{"interaction_token": True}, {"architecture": "released", "mask_peak": 2.0}])
def test_fields_of_the_trunk_belong_into_its_configuration(fields):
    with pytest.raises(ValueError, match=r"write `vision_config=\{.*not `"):
        ILAConfig(**fields)


def test_preset_with_a_field_of_the_trunk():
    with pytest.raises(ValueError, match="\"first_frame\": 'self'"):
        ILAConfig.from_preset("ila-base-patch16", first_frame="self")
    config = ILAConfig.from_preset("ila-base-patch16", vision_config={"first_frame": "self"})
    assert config.vision_config.first_frame == "self"


def test_a_plain_clip_is_no_mistake(tmp_path, monkeypatch):
    """transformers warns of a model of type clip that makes one of type ila."""
    told = []
    monkeypatch.setattr("transformers.configuration_utils.logger.warning", lambda message, *args: told.append(message))
    CLIPConfig(projection_dim=64).save_pretrained(tmp_path / "clip")
    for config_class, model_type in (
        (ILAConfig, "ila"),
        (ILAVisionConfig, "ila_vision_model"),
        (ILATextConfig, "ila_text_model"),
    ):
        config = config_class.from_pretrained(tmp_path / "clip")
        assert config.model_type == config.to_dict()["model_type"] == model_type
    assert ILAConfig.from_pretrained(tmp_path / "clip").projection_dim == 64
    assert told == []
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    ILAConfig.from_pretrained(tmp_path)
    assert "bert" in told[0]
