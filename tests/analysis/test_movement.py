"""Table 5: the earth mover's distance against the transport problem and all permutations; the models that it takes."""

import itertools

import numpy as np
import pytest
import torch
from conftest import make_model
from scipy.optimize import linprog
from transformers import (
    CLIPVisionModel,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    ResNetConfig,
    ResNetModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    SwinConfig,
    SwinModel,
    TimesformerConfig,
    TimesformerModel,
    VideoMAEConfig,
    VideoMAEModel,
    ViTConfig,
    ViTForImageClassification,
    VivitConfig,
    VivitModel,
    XCLIPVisionConfig,
    XCLIPVisionModel,
)

from ila_hf import ILAVisionModel
from ila_hf.analysis import frame_distances, patches_of_frames, video_distances
from ila_hf.analysis.flops import clip_config
from ila_hf.demo.motion_videos import MOTION_SETS, make_motion_videos
from ila_hf.demo.tiny import tiny_config, tiny_processor


def cosine_costs(a, b):
    return [[1 - float(x @ y / (x.norm() * y.norm())) for y in b] for x in a]


def test_against_all_permutations():
    patches = torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(0))
    best, in_place = [], []
    for clip in patches.double():
        for before, now in itertools.pairwise(clip):
            cost = cosine_costs(before, now)
            best.append(min(np.mean([cost[i][j] for i, j in enumerate(p)]) for p in itertools.permutations(range(5))))
            in_place.append(np.mean([cost[i][i] for i in range(5)]))
    found = frame_distances(patches)
    assert found.earth_movers == pytest.approx(np.mean(best), abs=1e-12)
    assert found.in_place == pytest.approx(np.mean(in_place), abs=1e-12)
    assert found.earth_movers < found.in_place


def test_against_the_transport_problem():
    """Uniform weights, any plan: no plan is better than the best assignment."""
    count = 6
    patches = torch.randn(1, 2, count, 4, generator=torch.Generator().manual_seed(1))
    cost = np.array(cosine_costs(*patches[0].double()))
    sums = np.zeros((2 * count, count * count))
    for i in range(count):
        sums[i, i * count : (i + 1) * count] = 1
        sums[count + i, i::count] = 1
    best = linprog(cost.ravel(), A_eq=sums, b_eq=np.full(2 * count, 1 / count)).fun
    assert frame_distances(patches).earth_movers == pytest.approx(best, abs=1e-9)


def test_what_moves_is_not_far():
    """Permuted patches are 0 from each other, whatever their scale."""
    frame = torch.randn(7, 16, generator=torch.Generator().manual_seed(2))
    found = frame_distances(torch.stack([frame, 3 * frame.flip(0)])[None])
    assert found.earth_movers == pytest.approx(0, abs=1e-12)
    assert found.in_place > 0.5


def test_what_is_refused(monkeypatch):
    for shape in [(2, 5, 8), (1, 1, 5, 8)]:
        with pytest.raises(ValueError, match="at least two frames"):
            frame_distances(torch.zeros(shape))
    merging = SwinModel(
        SwinConfig(image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=4)
    )
    without = ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1]))
    for model, message in (
        (merging, "SwinModel has no tokens of every frame"),
        (without, "ResNetModel has no patches"),
    ):
        with pytest.raises(ValueError, match=message):
            patches_of_frames(model, torch.zeros(2, 4, 3, 32, 32))
    monkeypatch.setattr("ila_hf.analysis.movement.is_scipy_available", lambda: False)
    with pytest.raises(ImportError, match=r"pip install 'ila-hf\[laboratory\]'"):
        frame_distances(torch.zeros(1, 2, 5, 8))


def test_clips_of_x_clip_are_not_mixed():
    sizes = {"image_size": 32, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = XCLIPVisionModel(XCLIPVisionConfig(**sizes, num_frames=4))
    with pytest.raises(ValueError, match=r"groups frames by its `num_frames`, 4: clips must have as many, got 2"):
        patches_of_frames(model, torch.zeros(2, 2, 3, 32, 32))


def test_the_model_stays_as_it_is():
    """In training there would be jitter in the masks, and BatchNorm would learn of the clips."""
    model = make_model(ILAVisionModel)
    clips = torch.randn(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    expected = patches_of_frames(model, clips)
    model.train()
    model.encoder.layers[0].eval()
    modes = [module.training for module in model.modules()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert torch.equal(patches_of_frames(model, clips), expected)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


@torch.no_grad()
def test_patches_of_models():
    """Of every kind those that belong to a frame: changing it changes them, and its own embedding tells which."""
    clips = torch.randn(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    model = make_model(ILAVisionModel)
    torch.testing.assert_close(patches_of_frames(model, clips), model(clips).last_hidden_state[:, :, 1:])
    assert patches_of_frames(make_model(), clips).shape == (2, 4, 16, 64)  # of a model with a head, its trunk
    clip = CLIPVisionModel(clip_config(tiny_config().vision_config)).eval()
    expected = torch.stack([clip(each).last_hidden_state[:, 1:] for each in clips])
    torch.testing.assert_close(patches_of_frames(clip, clips), expected)
    sizes = {"image_size": 32, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    for config_class, model_class, prefix in [
        (XCLIPVisionConfig, XCLIPVisionModel, 1),
        (SiglipVisionConfig, SiglipVisionModel, 0),
        (Dinov2WithRegistersConfig, Dinov2WithRegistersModel, 5),
    ]:
        model = model_class(config_class(**sizes, **({"num_frames": 4} if prefix == 1 else {}))).eval()
        expected = model(clips.flatten(0, 1)).last_hidden_state[:, prefix:].unflatten(0, (2, 4))
        torch.testing.assert_close(patches_of_frames(model, clips), expected)
    of_head = ViTForImageClassification(ViTConfig(**sizes)).eval()
    torch.testing.assert_close(patches_of_frames(of_head, clips), patches_of_frames(of_head.vit, clips))
    changed = clips.clone()
    changed[1, 2, :, :8, 8:16] += 1  # the second patch of the third frame, which is in the second tube of two frames
    sizes |= {"num_frames": 4, "num_hidden_layers": 0, "intermediate_size": 32}
    tube = {"patch_size": 8, "tubelet_size": [2, 8, 8]}
    for model, place in [
        (TimesformerModel(TimesformerConfig(**sizes)), [1, 2, 1]),
        (VideoMAEModel(VideoMAEConfig(**sizes)), [1, 1, 1]),
        (VivitModel(VivitConfig(**{**sizes, **tube})), [1, 1, 1]),
        (VivitModel(VivitConfig(**{**sizes, "tubelet_size": [1, 8, 8]})), [1, 2, 1]),
    ]:
        difference = patches_of_frames(model.eval(), changed) - patches_of_frames(model, clips)
        assert difference.abs().amax(-1).nonzero().tolist() == [place]


def test_videos_of_a_folder(tmp_path, tiny_model):
    """The mean over those that can be read."""
    make_motion_videos(tmp_path / "videos", {"validation": 8}, kind="reversed_pairs")
    files = sorted((tmp_path / "videos/validation").glob("*/*.mp4"))
    files[2].write_bytes(b"no video")
    model = tiny_model()
    names = sorted(name.replace(" ", "_") for name in MOTION_SETS["reversed_pairs"].classes)
    model.config.id2label, model.config.label2id = dict(enumerate(names)), {name: i for i, name in enumerate(names)}
    model.save_pretrained(tmp_path / "model")
    processor = tiny_processor(model.config)
    processor.save_pretrained(tmp_path / "model")
    found = video_distances(str(tmp_path / "model"), str(tmp_path / "videos/validation"), batch_size=3)
    clips = [processor(videos=str(file), return_tensors="pt").pixel_values for file in files if file != files[2]]
    each = [frame_distances(patches_of_frames(model, clip)) for clip in clips]
    assert found == pytest.approx(np.mean(each, axis=0), abs=1e-6)
    for file in files:
        file.write_bytes(b"no video")
    with pytest.raises(ValueError, match="at least one video that can be read, got none"):
        video_distances(str(tmp_path / "model"), str(tmp_path / "videos/validation"))
