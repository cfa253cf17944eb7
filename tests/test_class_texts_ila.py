"""Class texts: saved with the model, replaced, and encoded once."""

import pytest
import torch
from transformers import CLIPTextModel

from ila_hf import ILAConfig, ILAForVideoTextClassification, class_texts_ila
from ila_hf.demo.motion_clips import MOTIONS
from ila_hf.demo.tiny import save_tiny_clip, tiny_config, tiny_tokenizer


def test_class_texts_are_saved_with_the_model(tiny_model, clips, tmp_path):
    model = tiny_model()
    model.set_class_texts(["a b c", "x"], tiny_tokenizer())
    assert model.config.id2label == {0: "a b c", 1: "x"}
    assert model.config.label2id == {"a b c": 0, "x": 1}
    expected = model(clips).logits
    model.save_pretrained(tmp_path)
    loaded = ILAForVideoTextClassification.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(loaded(clips).logits, expected, atol=1e-5, rtol=1e-5)
    assert loaded.config.id2label == {0: "a b c", 1: "x"}
    other = ILAForVideoTextClassification.from_pretrained(tmp_path, num_labels=5, ignore_mismatched_sizes=True)
    with pytest.raises(ValueError, match="no class texts"):
        other(clips)


def test_texts_under_other_names_are_told(tiny_model, clips, tmp_path, monkeypatch):
    """As many other names as there are texts would be given to the old texts, with full scores."""
    told = []
    monkeypatch.setattr(class_texts_ila.logger, "warning_once", told.append)
    tiny_model().save_pretrained(tmp_path)
    names = {i: f"other {i}" for i in range(8)}
    config = ILAConfig.from_pretrained(tmp_path, id2label=names)
    for arguments in ({"id2label": names}, {"config": config}):
        model = ILAForVideoTextClassification.from_pretrained(tmp_path, **arguments).eval()
        assert told == []
        model(clips)
        assert len(told) == 1
        assert f"'{MOTIONS[0]}' is now called 'other 0'" in told.pop()
        model = ILAForVideoTextClassification.from_pretrained(tmp_path, **arguments).eval()
        model.set_class_texts(list(names.values()), tiny_tokenizer())
        model(clips)
    ILAForVideoTextClassification.from_pretrained(tmp_path).eval()(clips)
    # The names of a plain CLIP are those of no text
    save_tiny_clip(tmp_path / "clip")
    model = ILAForVideoTextClassification.from_pretrained(tmp_path / "clip", id2label={0: "a", 1: "b"}).eval()
    model.set_class_texts(["a", "b"], tiny_tokenizer())
    model(clips)
    assert told == []


def test_class_texts_as_ids_and_per_call(tiny_model, clips):
    model = tiny_model()
    inputs = tiny_tokenizer()(list(MOTIONS), padding=True, return_tensors="pt")
    expected = model(clips).logits
    torch.testing.assert_close(model(clips, **inputs).logits, expected)
    other = tiny_tokenizer()(["one", "two", "three"], padding=True, return_tensors="pt")
    assert model(clips, **other).logits.shape == (2, 3)  # the texts of the call win
    model.set_class_texts(inputs["input_ids"])
    assert model.config.id2label[3] == MOTIONS[3]  # the names stay where their number stays
    torch.testing.assert_close(model(clips).logits, expected)
    model.set_class_texts(other["input_ids"])
    assert model.config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    model.set_class_texts(other["input_ids"].tolist(), labels=["1", "2", "3"])
    assert model.config.id2label == {0: "1", 1: "2", 2: "3"}


def test_a_model_without_class_texts_says_so(clips):
    with pytest.raises(ValueError, match="no class texts: call `set_class_texts` or pass `input_ids`"):
        ILAForVideoTextClassification(tiny_config())(clips)


class TestTextFeatures:
    """Text features are computed once while the text tower does not train, and are never stale."""

    @pytest.fixture
    def model(self, tiny_model):
        model = tiny_model()
        model.calls = 0

        def count(module, args, output):
            model.calls += 1

        model.text_model.register_forward_hook(count)
        return model

    @torch.no_grad()
    def check(self, model, clips, calls):
        """The logits are those of texts encoded afresh, after `calls` runs of the text tower."""
        logits = model(clips).logits
        assert model.calls == calls
        vision = model.get_video_features(clips)
        fresh = model.get_text_features(model.class_texts.input_ids).pooler_output
        expected = model.video_text_logits(vision, fresh)[0]
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
        model.calls = calls

    def test_reused(self, model, clips):
        self.check(model, clips, 1)
        self.check(model, clips, 1)

    def test_new_texts(self, model, clips):
        self.check(model, clips, 1)
        model.set_class_texts(["alpha", "beta"], tiny_tokenizer())
        self.check(model, clips, 2)

    def test_texts_that_take_the_place_of_others(self, model, clips):
        for _ in range(5):  # buffers come and go: one may lie where another lay
            model.set_class_texts(["alpha", "beta"], tiny_tokenizer())
            model(clips)
            model.set_class_texts(["gamma", "delta"], tiny_tokenizer())
            model.set_class_texts(["epsilon", "zeta"], tiny_tokenizer())
            model.calls = 0
            self.check(model, clips, 1)

    def test_loaded_weights(self, model, clips):
        self.check(model, clips, 1)
        model.load_state_dict(
            {name: x + 0.01 for name, x in model.state_dict().items() if x.is_floating_point()}, False
        )
        self.check(model, clips, 2)

    @pytest.mark.parametrize("arguments", [{}, {"foreach": True}, {"fused": True}], ids=str)
    def test_a_training_text_tower(self, model, clips, arguments):
        self.check(model, clips, 1)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, **arguments)
        for calls in (2, 3):
            model(clips, labels=torch.tensor([0, 1])).loss.backward()
            assert model.calls == calls  # it trains: nothing is reused
            optimizer.step()
        self.check(model, clips, 4)

    def test_weights_written_behind_autograd(self, model, clips):
        """Writing to `.data` leaves no trace: whoever does so says so."""
        self.check(model, clips, 1)
        model.text_projection.weight.data.mul_(-1)
        model.reset_class_features()
        self.check(model, clips, 2)

    def test_a_text_tower_of_clip(self, model, clips):
        model.text_model = CLIPTextModel(model.config.text_config).eval()
        model.text_model.register_forward_hook(lambda module, args, output: setattr(model, "calls", model.calls + 1))
        self.check(model, clips, 1)
        self.check(model, clips, 1)

    def test_a_look_at_stored_features_runs_nothing(self, model, clips):
        """No kernel, hence no wait for the device, whatever the number of weights."""
        self.check(model, clips, 1)

        class Refuse(torch.utils._python_dispatch.TorchDispatchMode):
            def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                raise AssertionError(f"{function} runs")

        with torch.no_grad(), Refuse():
            assert model.class_features().shape == (8, 64)

    def test_a_mode_that_changes(self, model, clips):
        """Whatever has written to whatever weights: training and evaluating begin anew."""
        for calls, mode in enumerate((True, True, False, False)):
            model.train(mode)
            self.check(model, clips, 1 + (calls > 1))

    @torch.no_grad()
    def test_another_thread(self, model, monkeypatch):
        """What is stored may be gone at any moment: another thread may call `train`."""
        gone = property(lambda self: None, lambda self, value: None)
        monkeypatch.setattr(ILAForVideoTextClassification, "_class_features", gone, raising=False)
        assert model.class_features().shape == (8, 64)

    def test_dtype(self, model, clips):
        """Also one that comes and goes: what was rounded stays rounded."""
        self.check(model, clips, 1)
        model.half().float()
        self.check(model, clips, 2)
        model.calls = 1
        model.double()
        assert model.class_features().dtype == torch.float64
        model.float()
        model.calls = 1
        self.check(model, clips, 2)

    def test_autocast(self, model, clips):
        self.check(model, clips, 1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert model.class_features().dtype == torch.bfloat16
        assert model.class_features().dtype == torch.float32

    def test_features_made_in_inference_mode_serve_training(self, model, clips):
        model.freeze("text")
        with torch.inference_mode():
            model(clips)
        model(clips, labels=torch.tensor([0, 1])).loss.backward()
        assert model.calls == 1
        assert model.prompt.alpha.grad.any()

    def test_replicas_of_data_parallel(self, model, clips):
        """They have no parameters to tell whether the tower trains: nothing is reused, and gradients flow."""
        model.freeze("vision")
        self.check(model, clips, 1)
        model._is_replica = True
        model(clips, labels=torch.tensor([0, 1])).loss.backward()
        assert model.calls == 2
        assert model.text_projection.weight.grad.any()

    def test_a_frozen_tower_is_reused_in_training(self, model, clips):
        model.freeze("text")
        model.train()
        for _ in range(3):
            model(clips, labels=torch.tensor([0, 1])).loss.backward()
        assert model.calls == 1
