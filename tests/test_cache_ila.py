"""Streams: every frame is encoded once, and nothing shows it. Batches of streams, their state, and what is refused."""

import itertools
import random

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn

from ila_hf import ILACache, ILAForVideoClassification, ILAForVideoTextClassification, ILAModel, ILAVisionModel
from ila_hf.inference import compile_layers
from ila_hf.outputs_ila import ILATemporalOutput
from ila_hf.temporal_ila import ILA_TEMPORAL_MODULES


HEADS = {
    "text": (ILAForVideoTextClassification, {}),
    "text without prompt": (ILAForVideoTextClassification, {"prompt_num_hidden_layers": 0}),
    "linear": (ILAForVideoClassification, {}),
}
T = 4


@pytest.fixture(params=itertools.product(HEADS, (False, True)), ids=lambda p: f"{p[0]}{', token' if p[1] else ''}")
def model(request, tiny_model):
    head, token = request.param
    model_class, fields = HEADS[head]
    vision = {"first_frame": "self", "interaction_token": token}
    return tiny_model(model_class, vision=vision, num_frames=T, **fields)


@pytest.fixture
def causal(tiny_model):
    return tiny_model(vision={"first_frame": "self", "interaction_token": True}, num_frames=T)


@pytest.fixture(scope="session")
def videos():
    """Three streams of 11 frames."""
    return torch.randn(3, 11, 3, 32, 32, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def of_clips(model, video):
    """Logits after every frame of a video (S, 3, H, W): the trunk sees all of it, the heads a clip of T."""
    logits = []
    for end in range(1, len(video) + 1):
        frames = video[None, :end]
        if end <= T:  # nothing but the model itself
            logits.append(model(frames).logits[0])
            continue
        outputs = model.vision_model(frames)
        features = model.integration(model.visual_projection(outputs.pooler_output[:, -T:]))
        if isinstance(model, ILAForVideoClassification):
            logits.append(model.classifier(model.norm(nn.functional.normalize(features, dim=-1)))[0])
        else:
            outputs.pooler_output, outputs.last_hidden_state = features, outputs.last_hidden_state[:, -T:]
            logits.append(model.video_text_logits(outputs, model.class_features())[0][0])
    return torch.stack(logits)


def assert_equal(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("chunks", [[1] * 11, [2, 3, 1, 5], [11]], ids=str)
@torch.no_grad()
def test_every_frame_and_chunk(model, videos, chunks):
    """Logits of the causal model on clips, whatever comes at a time."""
    expected = torch.stack([of_clips(model, video) for video in videos])
    cache, found = ILACache(), []
    for frames in videos.split(chunks, dim=1):
        outputs = model(frames, cache=cache)
        assert outputs.cache is cache
        found.append(outputs.logits)
    assert_equal(torch.cat(found, dim=1), expected)
    assert cache.lengths.tolist() == [11, 11, 11]
    assert cache.num_frames == T


@torch.no_grad()
def test_every_composition_of_a_batch(model, videos):
    """Streams that come, go, begin anew, and have no frame at times, in an order drawn at random."""
    draw = random.Random(0)
    expected = [of_clips(model, video) for video in videos]
    caches, places = [ILACache() for _ in videos], [0, 0, 0]
    for _ in range(25):
        ready = draw.sample([0, 1, 2], draw.randint(1, 3))
        for i in ready:
            if places[i] > 0 and (places[i] >= 9 or draw.random() < 0.1):
                caches[i].reset(0)
                places[i] = 0
        size = draw.randint(1, 2)
        cache = ILACache.join([caches[i] for i in ready])
        frames = torch.stack([videos[i, places[i] : places[i] + size] for i in ready])
        found = model(frames, cache=cache).logits
        for row, i in enumerate(ready):
            caches[i] = cache.select([row])
            assert_equal(found[row], expected[i][places[i] : places[i] + size])
            places[i] += size


@torch.no_grad()
def test_streams_come_and_go_in_one_cache(causal, videos):
    expected = [of_clips(causal, video) for video in videos]
    cache = ILACache()
    causal(videos[:1, :3], cache=cache)
    cache.add()
    found = causal(torch.stack([videos[0, 3:8], videos[1, :5]]), cache=cache).logits
    assert_equal(found, torch.stack([expected[0][3:8], expected[1][:5]]))
    cache.add(1)
    cache.reset(0)
    found = causal(torch.stack([videos[2, :2], videos[1, 5:7], videos[0, :2]]), cache=cache).logits
    assert_equal(found, torch.stack([expected[2][:2], expected[1][5:7], expected[0][:2]]))
    cache.drop(1)
    assert cache.lengths.tolist() == [2, 2]
    found = causal(torch.stack([videos[2, 2:4], videos[0, 2:4]]), cache=cache).logits
    assert_equal(found, torch.stack([expected[2][2:4], expected[0][2:4]]))
    cache.reset()
    assert_equal(causal(videos[:2, :2], cache=cache).logits, torch.stack([expected[0][:2], expected[1][:2]]))


@torch.no_grad()
def test_kept_frames(causal, videos):
    """The trunk runs on all; P of them are classified."""
    expected = causal(videos, cache=ILACache()).logits
    for kept, places in ((1, [10]), (3, [8, 9, 10]), (torch.tensor([1, 6]), [1, 6]), (torch.tensor([-1]), [10])):
        cache = ILACache()
        assert_equal(causal(videos, cache=cache, logits_to_keep=kept).logits, expected[:, places])
        assert cache.lengths.tolist() == [11] * 3


@torch.no_grad()
def test_another_t(causal, videos):
    """The cache may look back on more or fewer frames than the model was trained with."""
    for num_frames in (1, 2, 7):
        cache = ILACache(num_frames)
        causal(videos[:1, :3], cache=cache)
        found = causal(videos[:1, 3:], cache=cache, logits_to_keep=1).logits[0, 0]
        outputs = causal.vision_model(videos[:1])
        outputs.pooler_output = causal.integration(causal.visual_projection(outputs.pooler_output[:, -num_frames:]))
        outputs.last_hidden_state = outputs.last_hidden_state[:, -num_frames:]
        assert_equal(found, causal.video_text_logits(outputs, causal.class_features())[0][0])


@torch.no_grad()
def test_texts_of_the_moment(tiny_model, videos):
    """ILAModel's features of streams, compared with texts given at the call."""
    model = tiny_model(ILAModel, vision={"first_frame": "self"}, num_frames=T)
    texts = torch.randn(5, 64)
    cache = ILACache()
    for end in range(1, 7):
        outputs = model.get_video_features(videos[:, end - 1 : end], cache=cache)
        logits, video, text = model.video_text_logits(outputs, texts)
        assert [tuple(each.shape) for each in (logits, video, text)] == [(3, 1, 5), (3, 1, 64), (3, 1, 5, 64)]
        if end <= T:
            expected = model.video_text_logits(model.get_video_features(videos[:, :end]), texts)
            for found, each in zip((logits, video, text), expected, strict=True):
                assert_equal(found[:, 0], each)
    with pytest.raises(ValueError, match="call `get_video_features` with the cache"):
        model(torch.ones(1, 3, dtype=torch.long), videos[:1], cache=cache)


@torch.no_grad()
def test_trunk_and_diagnostics(tiny_model, videos):
    """The trunk alone; states, points and masks of frame t are those of its pair with frame t - 1 in the clip."""
    model = tiny_model(ILAVisionModel, vision={"first_frame": "self"})
    expected = model(videos, output_alignments=True, output_hidden_states=True)
    cache = ILACache()
    for t in range(videos.shape[1]):
        found = model(videos[:, t : t + 1], cache=cache, output_alignments=True, output_hidden_states=True)
        for name in ("last_hidden_state", "pooler_output"):
            assert_equal(found[name], expected[name][:, t : t + 1])
        for one, other in zip(found.hidden_states, expected.hidden_states, strict=True):
            assert_equal(one, other[:, t : t + 1])
        for name in ("interactive_points", "alignment_masks", "mutual_information_tokens") if t > 0 else ():
            for one, other in zip(found[name], expected[name], strict=True):
                assert_equal(one, other[:, t - 1 : t])


@torch.no_grad()
def test_memory_is_constant(causal, videos):
    """In bytes that are kept, storages of views included."""

    def kept(cache):
        return sum(state.untyped_storage().nbytes() for state in cache.states.values()) + cache.lengths.nbytes

    cache = ILACache()
    causal(videos, cache=cache)
    size = cache.nbytes
    assert kept(cache) == size
    # Three layers of L tokens; T - 1 frames of E features for the integration, and of N times E for the prompt
    tokens, width, patches, projected = 17, 64, 16, 64
    assert size == 3 * 8 + 4 * 3 * (3 * tokens * width + (T - 1) * (projected + patches * projected))
    for frames in videos.split(1, dim=1):
        causal(frames, cache=cache)
        assert kept(cache) == cache.nbytes == size


@torch.no_grad()
def test_saved_and_loaded(causal, videos, tmp_path):
    cache = ILACache()
    causal(videos[:, :6], cache=cache)
    cache.save(tmp_path / "cache.safetensors")
    expected = causal(videos[:, 6:], cache=cache).logits
    loaded = ILACache.load(tmp_path / "cache.safetensors")
    assert repr(loaded) == "ILACache(num_frames=4, lengths=[6, 6, 6])"
    torch.testing.assert_close(causal(videos[:, 6:], cache=loaded).logits, expected, rtol=0, atol=0)
    ILACache().save(tmp_path / "new.safetensors")
    new = ILACache.load(tmp_path / "new.safetensors")
    assert new.num_frames is None
    assert len(new) == 0
    causal.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"model.safetensors' is no cache"):
        ILACache.load(tmp_path / "model.safetensors")


@torch.no_grad()
def test_types_and_devices(causal, videos):
    """A cache follows the model, and is moved as tensors are."""
    cache = ILACache()
    model = causal.to(torch.bfloat16)
    half = model(videos[:, :5].bfloat16(), cache=cache).logits
    assert half.dtype == torch.float32
    assert {state.dtype for state in cache.states.values()} == {torch.bfloat16}
    model.float()
    expected = model(videos[:, :6], cache=ILACache()).logits
    found = model(videos[:, 5:6], cache=cache).logits
    torch.testing.assert_close(found, expected[:, 5:], atol=0.1, rtol=0.1)
    assert {state.dtype for state in cache.states.values()} == {torch.float32}
    assert cache.to(torch.float16) is cache
    assert {state.dtype for state in cache.states.values()} == {torch.float16}
    assert {state.device.type for state in cache.to("meta").states.values()} == {"meta"}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("form", ["fused", "autocast", "inference mode"])
def test_forms(causal, videos, attention, form):
    causal.set_attn_implementation(attention)
    with torch.no_grad():
        expected = causal(videos, cache=ILACache()).logits
    model = causal.fuse() if form == "fused" else causal
    tolerance = 0.1 if form == "autocast" else 1e-5
    cache = ILACache()
    with torch.inference_mode(form == "inference mode"), torch.autocast("cpu", enabled=form == "autocast"):
        for t, frames in enumerate(videos.split(1, dim=1)):
            with torch.no_grad():
                found = model(frames, cache=cache).logits
            torch.testing.assert_close(found, expected[:, t : t + 1], atol=tolerance, rtol=tolerance)
    cache.reset(0)  # also where its tensors were made in inference mode


@torch.no_grad()
def test_compiled_layers(causal, videos):
    expected = causal(videos, cache=ILACache()).logits
    model, cache = compile_layers(causal, dynamic=True, backend="aot_eager"), ILACache()
    found = torch.cat([model(frames, cache=cache).logits for frames in videos.split(1, dim=1)], dim=1)
    assert_equal(found, expected)


@torch.no_grad()
def test_models_trained_with_next(tiny_model, videos):
    """Set to "self", a model is the one that was made so; only what follows from the first frame changes."""
    model = tiny_model(num_frames=T)
    with pytest.raises(ValueError, match=r"first_frame='next'.*\): call `model.set_first_frame\(\"self\"\)`"):
        model(videos, cache=ILACache())
    model.set_first_frame("self")
    assert model.config.vision_config.first_frame == "self"
    other = tiny_model(num_frames=T, vision={"first_frame": "self"})
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(videos).logits, other(videos).logits)
    assert torch.equal(model(videos, cache=ILACache()).logits, other(videos, cache=ILACache()).logits)
    model.set_first_frame("next")
    assert torch.equal(model(videos).logits, tiny_model(num_frames=T)(videos).logits)
    with pytest.raises(StrictDataclassError, match=r"first_frame.*last"):
        model.set_first_frame("last")
    assert model.config.vision_config.first_frame == "next"
    released = tiny_model(vision={"architecture": "released"})
    with pytest.raises(StrictDataclassError, match='"next" with architecture="released"'):
        released.set_first_frame("self")
    assert released.config.vision_config.first_frame == "next"


class Difference(nn.Module):
    """One token per frame: the class token of the frame less that of the frame before."""

    is_causal = True

    def __init__(self, config):
        super().__init__()

    def forward(self, patches, prefix, grid, with_loss, previous=None):
        first = prefix[:, :1] if previous is None else previous[:, :, :1]
        before = torch.cat([first, prefix[:, :-1]], dim=1)
        return ILATemporalOutput(tokens=prefix - before)


@torch.no_grad()
def test_modules_of_others(tiny_model, videos, monkeypatch):
    monkeypatch.setitem(ILA_TEMPORAL_MODULES, "difference", Difference)
    model = tiny_model(vision={"temporal_module": "difference"}, num_frames=T)
    expected, cache = of_clips(model, videos[0]), ILACache()
    found = [model(frames, cache=cache).logits[0] for frames in videos[:1].split(1, dim=1)]
    assert_equal(torch.cat(found), expected)
    monkeypatch.setattr(Difference, "is_causal", False)
    with pytest.raises(
        ValueError, match=r"Layer 0 is not causal \(temporal_module='difference'.*no other setting of it is"
    ):
        model(videos, cache=cache)


@torch.no_grad()
def test_layers_that_do_not_align(tiny_model, videos):
    model = tiny_model(vision={"alignment_layers": [1], "first_frame": "self"}, num_frames=T)
    expected, cache = of_clips(model, videos[0]), ILACache()
    assert_equal(model(videos[:1], cache=cache).logits[0], expected)
    assert set(cache.states) == {"layers.1", "frame_features", "patch_features"}
    plain = tiny_model(vision={"alignment_layers": []}, num_frames=T)  # every frame by itself
    assert_equal(plain(videos[:1], cache=ILACache()).logits[0], of_clips(plain, videos[0]))


@torch.no_grad()
def test_what_is_refused(tiny_model, causal, videos):
    cache = ILACache()
    causal(videos[:2, :2], cache=cache)
    with pytest.raises(ValueError, match="has 2 streams, got frames of 3"):
        causal(videos, cache=cache)
    with pytest.raises(ValueError, match="`labels` are those of clips"):
        causal(videos, cache=cache, labels=torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match="`logits_to_keep` needs `cache`"):
        causal(videos, logits_to_keep=1)
    with pytest.raises(ValueError, match=r"`logits_to_keep` must be a number of frames.*got -1"):
        causal(videos, cache=cache, logits_to_keep=-1)
    with pytest.raises(ValueError, match="`num_frames` must be at least 1, got 0"):
        ILACache(0)
    with pytest.raises(ValueError, match="`count` must be at least 1, got 0"):
        cache.add(0)
    for call in (cache.drop, cache.reset, lambda i: cache.select([i])):
        with pytest.raises(IndexError, match="no stream 2: the cache has 2"):
            call(2)
    assert cache.lengths.tolist() == [2, 2]
    with pytest.raises(ValueError, match="is for inference"):
        tiny_model(vision={"first_frame": "self"}, training=True)(videos, cache=ILACache())
    with pytest.raises(ValueError, match=r"architecture='released'.*no other setting"):
        tiny_model(vision={"architecture": "released"})(videos, cache=ILACache())


@torch.no_grad()
def test_caches_of_other_models(tiny_model, causal, videos):
    cache = ILACache()
    causal(videos[:1, :2], cache=cache)
    wide = tiny_model(vision={"first_frame": "self", "hidden_size": 128}, num_frames=T)
    with pytest.raises(ValueError, match=r"another model.*'layers.0' has the shape \(1, 1, 17, 64\)"):
        wide(videos[:1], cache=cache)
    other = ILACache()
    wide(videos[:1, :2], cache=other)
    with pytest.raises(ValueError, match="The caches are of different models"):
        ILACache.join([cache, other])
    with pytest.raises(ValueError, match=r"differ in `num_frames`: \[4, 5\]"):
        ILACache.join([ILACache(5), ILACache(4)])
    with pytest.raises(ValueError, match="no cache to join"):
        ILACache.join([])
    trunk = ILACache()
    causal.vision_model(videos[:1, :2], cache=trunk)
    with pytest.raises(ValueError, match="seen frames, but has no 'frame_features'"):
        causal(videos[:1, 2:], cache=trunk)
    some = tiny_model(vision={"first_frame": "self", "interaction_token": True, "alignment_layers": [1]}, num_frames=T)
    fewer = ILACache()
    some(videos[:1, :2], cache=fewer)
    with pytest.raises(ValueError, match=r"seen frames, but has no 'layers\.0'"):
        causal(videos[:1, 2:], cache=fewer)
    larger = torch.randn(1, 1, 3, 64, 64)
    with pytest.raises(ValueError, match="frames of another size"):
        causal(larger, cache=cache, interpolate_pos_encoding=True)


def test_a_call_that_fails_leaves_the_cache_as_it_was(causal, videos, monkeypatch):
    with torch.no_grad():
        expected = causal(videos[:1], cache=ILACache()).logits
        cache = ILACache()
        with pytest.raises(ValueError, match="7"):
            causal(torch.zeros(2, 1, 3, 7, 7), cache=cache)  # of the wrong size
        causal(videos[:1, :4], cache=cache)
        layer = causal.vision_model.encoder.layers[2]
        for part, method in (
            (layer, "forward"),
            (causal.vision_model.post_layernorm, "forward"),
            (causal.integration, "integrate"),
            (causal.prompt, "of_streams"),
            (causal, "video_text_logits"),
        ):
            with monkeypatch.context() as patch:
                patch.setattr(part, method, lambda *args, **kwargs: 1 / 0)
                for call in (causal, causal.get_video_features):
                    if part is not causal or call is causal:
                        with pytest.raises(ZeroDivisionError):
                            call(videos[:1, 4:6], cache=cache)
                if part is layer:
                    with pytest.raises(ZeroDivisionError):
                        causal.vision_model(videos[:1, 4:6], cache=cache)
        for places in (torch.tensor([0.5]), torch.tensor(1)):
            with pytest.raises(ValueError, match="Places in `logits_to_keep` must be whole numbers"):
                causal(videos[:1, 4:6], cache=cache, logits_to_keep=places)
        with pytest.raises(ValueError, match=r"`logits_to_keep` must be those of 2 frames, got \[5, -3\]"):
            causal(videos[:1, 4:6], cache=cache, logits_to_keep=torch.tensor([5, 1, -2, -3]))
        outputs = causal(videos[:1, 4:], cache=cache)
        assert_equal(outputs.logits, expected[:, 4:])
        assert outputs.cache is cache


def test_a_linear_head_that_fails_leaves_the_cache_as_it_was(tiny_model, videos, monkeypatch):
    model = tiny_model(ILAForVideoClassification, vision={"first_frame": "self"}, num_frames=T)
    cache = ILACache()
    with torch.no_grad():
        expected = model(videos, cache=ILACache()).logits
        model(videos[:, :4], cache=cache)
        with monkeypatch.context() as patch:
            patch.setattr(model.classifier, "forward", lambda *args: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                model(videos[:, 4:6], cache=cache)
        assert_equal(model(videos[:, 4:], cache=cache).logits, expected[:, 4:])


def test_the_past_is_no_part_of_a_graph(causal, videos):
    """Also where gradients are not switched off."""
    cache = ILACache()
    for frames in videos.split(1, dim=1):
        causal(frames, cache=cache)
    assert not any(state.requires_grad for state in cache.states.values())


@torch.no_grad()
def test_a_cache_whose_streams_have_ended(causal, videos):
    cache = ILACache()
    causal(videos[:1, :3], cache=cache)
    cache.drop(0)
    expected = causal(videos[:2, :2], cache=ILACache()).logits
    assert_equal(causal(videos[:2, :2], cache=cache).logits, expected)
    with pytest.raises(ValueError, match=r"differ in `num_frames`: \[3, 4\]"):
        ILACache.join([cache, ILACache(3)])
