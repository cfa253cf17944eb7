"""Parameter groups, schedule, mixed batches, averaged weights, synchronized BatchNorm: each against its definition."""

import copy
import math

import pytest
import torch
from torch import nn
from transformers import CLIPConfig, CLIPModel, get_scheduler

from ila_hf import ILAForVideoClassification, ILAForVideoTextClassification, ILAVisionModel
from ila_hf.integration_ila import ILAMultiframeIntegration
from ila_hf.training import ILATrainingArguments
from ila_hf.training.optimization import ClipMixer, WeightAverage, parameter_groups
from ila_hf.training.sync_batch_norm import SyncBatchNorm2d, share_statistics, synchronize_batch_norm


HEADS = (ILAForVideoTextClassification, ILAForVideoClassification)


# --- Parameter groups ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip_names():
    """The names of all weights of a plain CLIP of the size of the tiny model."""
    with torch.device("meta"):
        towers = {f"{name}_config": {"num_hidden_layers": layers} for name, layers in (("vision", 3), ("text", 2))}
        return set(CLIPModel(CLIPConfig(**towers)).state_dict())


def names_without_decay(model):
    """All of norms, all biases, vectors and scalars that modules hold directly, and positions: by kind of module."""
    names = set()
    for prefix, module in model.named_modules():
        dot = prefix and f"{prefix}."
        own = {name for name, _ in module.named_parameters(recurse=False)}
        if isinstance(module, nn.LayerNorm | nn.BatchNorm2d):
            names |= {f"{dot}{name}" for name in own}
        elif isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d):
            names |= {f"{dot}{name}" for name in own if name == "bias"}
        elif isinstance(module, nn.Embedding):
            names |= {f"{dot}{name}" for name in own if prefix.endswith(".position_embedding")}
        elif isinstance(module, ILAMultiframeIntegration):
            assert own == {"position_embedding"}
            names.add(f"{dot}position_embedding")
        else:  # the class token, the weight α of the prompt, the logit scale
            assert own <= {"class_embedding", "alpha", "logit_scale"}
            names |= {f"{dot}{name}" for name in own}
    return names


def names_in(groups, model):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {group["name"]: [names[id(parameter)] for parameter in group["params"]] for group in groups}


@pytest.mark.parametrize("architecture", ["paper", "released"])
@pytest.mark.parametrize("model_class", HEADS)
def test_groups(tiny_model, clip_names, model_class, architecture):
    vision = {"architecture": architecture, "interaction_token": architecture == "paper"}
    model = tiny_model(model_class, vision=vision)
    groups = parameter_groups(model, 0.002, 0.05, new_lr_factor=10)
    found = names_in(groups, model)
    assert sorted(name for names in found.values() for name in names) == sorted(dict(model.named_parameters()))
    no_decay = names_without_decay(model)
    every = {name for name, _ in model.named_parameters()}
    assert {name: set(names) for name, names in found.items()} == {
        "clip, decay": (every & clip_names) - no_decay,
        "clip, no decay": every & clip_names & no_decay,
        "new, decay": every - clip_names - no_decay,
        "new, no decay": (every - clip_names) & no_decay,
    }
    assert {group["name"]: (round(group["lr"], 12), group["weight_decay"]) for group in groups} == {
        "clip, decay": (0.002, 0.05),
        "clip, no decay": (0.002, 0),
        "new, decay": (0.02, 0.05),
        "new, no decay": (0.02, 0),
    }
    torch.optim.AdamW(groups)


def test_some_names(tiny_model):
    """A few of them by hand, one or two of every group."""
    model = tiny_model()
    found = names_in(parameter_groups(model, 1e-3, 0.1), model)
    layer = "vision_model.encoder.layers.0."
    for group, names in {
        "clip, decay": [f"{layer}mlp.fc1.weight", "text_projection.weight"],
        "clip, no decay": [
            f"{layer}layer_norm1.weight",
            "logit_scale",
            "vision_model.embeddings.class_embedding",
            "vision_model.embeddings.position_embedding.weight",
            "text_model.embeddings.position_embedding.weight",
        ],
        "new, decay": [f"{layer}temporal.alignment.prediction.fc2.weight", "prompt.patch_projection.weight"],
        "new, no decay": [
            f"{layer}temporal.alignment.interaction.1.weight",
            "prompt.alpha",
            "integration.position_embedding",
            "integration.layers.0.self_attn.q_proj.bias",
        ],
    }.items():
        assert set(names) <= set(found[group])


@pytest.mark.parametrize("model_class", HEADS)
def test_frozen_parameters_are_in_no_group(tiny_model, clip_names, model_class):
    model = tiny_model(model_class)
    model.freeze("clip")
    groups = parameter_groups(model, 1e-3, 0.1)
    assert [group["name"] for group in groups] == ["new, decay", "new, no decay"]
    assert {group["lr"] for group in groups} == {1e-3}  # the default factor is 1
    names = {name for names in names_in(groups, model).values() for name in names}
    assert names == {name for name, _ in model.named_parameters()} - clip_names
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="nothing to train: all parameters are frozen"):
        parameter_groups(model, 1e-3, 0.1)


def test_groups_of_the_trunk_alone(tiny_model):
    model = tiny_model(ILAVisionModel)
    found = names_in(parameter_groups(model, 1e-3, 0.1), model)
    new = {name for group in ("new, decay", "new, no decay") for name in found[group]}
    assert new == {name for name, _ in model.named_parameters() if ".temporal." in name}


def test_the_cosine_ends_at_a_hundredth(tiny_model):
    """Table 14: a linear warm-up, here of 5 steps, then a cosine from the learning rate of a group to 1 % of it."""
    groups = parameter_groups(tiny_model(), 8e-6, 0.003, new_lr_factor=10)
    optimizer = torch.optim.AdamW(groups, lr=8e-6)
    scheduler = get_scheduler("cosine_with_min_lr", optimizer, 5, 25, {"min_lr_rate": 0.01})
    bases = {"clip": 8e-6, "new": 8e-5}
    for step in range(26):
        share = step / 5 if step < 5 else 0.01 + 0.99 * (1 + math.cos(math.pi * (step - 5) / 20)) / 2
        for group in optimizer.param_groups:
            assert group["lr"] == pytest.approx(share * bases[group["name"].split(",")[0]], rel=1e-9)
        last = [round(group["lr"], 12) for group in optimizer.param_groups]
        optimizer.step()
        scheduler.step()
    assert last == [8e-8, 8e-8, 8e-7, 8e-7]


# --- Mixed batches ------------------------------------------------------------------------------------------------

IDS = torch.tensor([4, 0, 3])


@pytest.fixture
def batch():
    """Three clips of five frames of 12×10 pixels, all values different, and classes 4, 0 and 3 of five."""
    clips = torch.randn(3, 5, 3, 12, 10, generator=torch.Generator().manual_seed(0))
    return {"pixel_values": clips, "labels": IDS}


def own_share(targets):
    """λ, the target of a clip's own class, which is the same for all clips; that of the clip before it is the rest."""
    own = targets[torch.arange(3), IDS]
    other = targets[torch.arange(3), IDS.roll(1)]
    torch.testing.assert_close(own, own[:1].expand(3))
    torch.testing.assert_close(own + other, torch.ones(3))
    return float(own[0])


@pytest.mark.parametrize("number", range(5))
def test_mixup(batch, number):
    mixed = ClipMixer(5, mixup_alpha=0.8)(batch, number)
    assert type(mixed["pixel_values"]) is type(mixed["labels"]) is torch.Tensor
    share = own_share(mixed["labels"])
    assert 0 < share < 1
    for i in range(3):
        before = (i - 1) % 3
        for t in range(5):
            expected = share * batch["pixel_values"][i, t] + (1 - share) * batch["pixel_values"][before, t]
            torch.testing.assert_close(mixed["pixel_values"][i, t], expected)
        expected = torch.zeros(5)
        expected[IDS[i]] += share
        expected[IDS[before]] += 1 - share
        torch.testing.assert_close(mixed["labels"][i], expected)


@pytest.mark.parametrize("number", range(5))
def test_cutmix(batch, number):
    """A box, the same in all frames and clips, shows the clip before; λ is the share of what it does not cover."""
    clips = batch["pixel_values"]
    mixed = ClipMixer(5, cutmix_alpha=1.0)(batch, number)
    changed = (mixed["pixel_values"] != clips)[0, 0, 0]
    rows, columns = changed.any(1).nonzero().flatten().tolist(), changed.any(0).nonzero().flatten().tolist()
    share = own_share(mixed["labels"])
    assert share == pytest.approx(1 - len(rows) * len(columns) / 120)
    assert rows == list(range(rows[0], rows[-1] + 1))
    for i in range(3):
        for t in range(5):
            expected = clips[i, t].clone()
            for y in rows:
                for x in columns:
                    expected[:, y, x] = clips[(i - 1) % 3, t, :, y, x]
            assert torch.equal(mixed["pixel_values"][i, t], expected)


def test_the_shares_are_those_of_the_beta_distribution(batch):
    """Mean 1/2 and variance 1 / (4·(2α + 1))."""
    clips = {"pixel_values": batch["pixel_values"][:, :1, :, :2, :2], "labels": IDS}
    mixer = ClipMixer(5, mixup_alpha=0.8)
    shares = torch.tensor([own_share(mixer(clips, i)["labels"]) for i in range(1000)])
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(shares.var()) == pytest.approx(1 / 10.4, rel=0.1)


@pytest.mark.parametrize(
    ("probability", "expected"), [(0.5, (450, 550)), (0.1, (70, 130)), (0.0, (0, 0)), (1.0, (1000, 1000))]
)
def test_cutmix_takes_its_turn(batch, probability, expected):
    """Every pixel of a cutmix is one of the two; of a mixup, none is. Draws of 1000 batches."""
    clips = batch["pixel_values"][:, :1]
    mixer = ClipMixer(5, 0.8, 1.0, probability)
    count = 0
    for number in range(1000):
        mixed = mixer({"pixel_values": clips, "labels": IDS}, number)["pixel_values"]
        count += int(((mixed == clips) | (mixed == clips.roll(1, 0))).all())
    assert expected[0] <= count <= expected[1]


def test_draws_depend_on_the_seed_and_the_numbers_only(batch):
    def draw(*numbers, seed=1):
        torch.rand(7)  # whatever else is drawn
        mixed = ClipMixer(5, 0.8, 1.0, label_smoothing=0.1, seed=seed)(batch, *numbers)
        return torch.cat([mixed["pixel_values"].flatten(), mixed["labels"].flatten()])

    assert torch.equal(draw(3, 1), draw(3, 1))
    others = [draw(3, 2), draw(4, 1), draw(1, 3), draw(3, 1, seed=2)]
    assert not any(torch.equal(draw(3, 1), other) for other in others)
    before, state = copy.deepcopy(batch), torch.get_rng_state()
    ClipMixer(5, 0.8, 1.0)(batch, 3, 1)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(batch[name], before[name]) for name in batch)  # the batch itself stays


def test_label_smoothing(batch):
    mixed = ClipMixer(5, label_smoothing=0.1)(batch, 0)
    expected = torch.full((3, 5), 0.02)
    expected[0, 4] = expected[1, 0] = expected[2, 3] = 0.92
    torch.testing.assert_close(mixed["labels"], expected)
    assert torch.equal(mixed["pixel_values"], batch["pixel_values"])


def test_smoothed_and_mixed_labels(batch):
    plain = ClipMixer(5, 0.8, 1.0)(batch, 6)
    smoothed = ClipMixer(5, 0.8, 1.0, label_smoothing=0.1)({**batch, "other": 1}, 6)
    torch.testing.assert_close(smoothed["labels"], 0.9 * plain["labels"] + 0.02)
    torch.testing.assert_close(smoothed["labels"].sum(1), torch.ones(3))
    assert torch.equal(smoothed["pixel_values"], plain["pixel_values"])  # the same draw
    assert smoothed["other"] == 1
    soft = nn.functional.one_hot(IDS, 5)
    torch.testing.assert_close(ClipMixer(5, 0.8, 1.0)({**batch, "labels": soft}, 6)["labels"], plain["labels"])


def test_nothing_to_mix(batch):
    assert ClipMixer(5)(batch, 0) is batch
    for arguments in ({"mixup_alpha": 0.1}, {"cutmix_alpha": 0.1}, {"label_smoothing": 0.1}):
        assert ClipMixer(5, **arguments)(batch, 0) is not batch


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mixup_alpha": -0.1}, r"`mixup_alpha` must be zero \(off\) or positive, got -0.1"),
        ({"cutmix_alpha": -1.0}, r"`cutmix_alpha` must be zero \(off\) or positive, got -1.0"),
        ({"switch_probability": 1.5}, r"`switch_probability` must be in \[0, 1\], got 1.5"),
        ({"label_smoothing": -0.1}, r"`label_smoothing` must be in \[0, 1\], got -0.1"),
    ],
)
def test_mixers_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        ClipMixer(5, **arguments)


# --- Averaged weights ---------------------------------------------------------------------------------------------


def small_model():
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def values(model):
    return [parameter.detach().clone() for parameter in model.parameters()]


def step(model, number):
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            parameter.copy_(torch.full_like(parameter, 10.0**number + i))
        model[1].running_mean.fill_(number)


def test_average_of_three_steps():
    """It starts with the weights after the first step; buffers are those of the last."""
    model = small_model()
    average = WeightAverage(model, 0.75)
    for number in range(3):
        step(model, number)
        average.update(model)
    first, second, third = 1.0, 10.0, 100.0
    expected = 0.75 * (0.75 * first + 0.25 * second) + 0.25 * third
    with average.applied_to(model):
        for i, parameter in enumerate(model.parameters()):
            torch.testing.assert_close(parameter.detach(), torch.full_like(parameter, expected + i))
    assert average.average.module[1].running_mean.tolist() == [2, 2]
    assert all(bool((parameter == 100 + i).all()) for i, parameter in enumerate(model.parameters()))


def test_an_average_is_saved_and_loaded(tmp_path):
    """And goes on as if it had not been."""
    model = small_model()
    whole = WeightAverage(model, 0.9)
    for number in range(2):
        step(model, number)
        whole.update(model)
    whole.save(tmp_path)
    loaded = WeightAverage(small_model(), 0.9)
    loaded.load(tmp_path)
    step(model, 2)
    for average in (whole, loaded):
        average.update(model)
    for name, tensor in whole.average.state_dict().items():
        assert torch.equal(loaded.average.state_dict()[name], tensor), name


def test_averaged_weights_are_lent():
    model = small_model()
    average = WeightAverage(model, 0.5)
    kept = values(model)
    step(model, 1)
    own = values(model)
    with average.applied_to(model):
        assert all(map(torch.equal, values(model), kept))
    assert all(map(torch.equal, values(model), own))
    with pytest.raises(KeyError), average.applied_to(model):
        raise KeyError
    assert all(map(torch.equal, values(model), own))
    with average.applied_to(model):
        assert all(map(torch.equal, values(model), kept))  # nor has the average taken anything over


def test_the_average_of_a_model_that_has_run(tiny_model, clips):
    """Also after text features have been kept, and with parts that do not train."""
    model = tiny_model()
    model.freeze("text")
    model(clips)
    average = WeightAverage(model, 0.5)
    average.update(model)
    with torch.no_grad(), average.applied_to(model):
        torch.testing.assert_close(model(clips).logits, tiny_model()(clips).logits)


@pytest.mark.parametrize("decay", [0, 1, 1.5, -0.1])
def test_decays_that_cannot_be(decay):
    with pytest.raises(ValueError, match=f"`ema_decay` must be between 0 and 1, got {decay}"):
        WeightAverage(small_model(), decay)


# --- BatchNorm over processes, in one -----------------------------------------------------------------------------


def test_synchronized_batch_norm_in_one_process(tiny_model, clips):
    plain = tiny_model(ILAVisionModel, training=True)
    model = copy.deepcopy(plain)
    kinds = {name: type(module) for name, module in model.named_modules()}
    assert synchronize_batch_norm(model, "cpu") is model
    for name, module in model.named_modules():
        assert type(module) is (SyncBatchNorm2d if kinds[name] is nn.BatchNorm2d else kinds[name])
    assert nn.BatchNorm2d in kinds.values()
    assert list(model.state_dict()) == list(plain.state_dict())
    for one in (plain, model):
        one(clips).last_hidden_state.square().sum().backward()
    share_statistics(model)  # with whom?
    for name, tensor in plain.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert all(torch.equal(gradients[n], p.grad) for n, p in plain.named_parameters() if p.grad is not None)
    assert torch.equal(model.eval()(clips).last_hidden_state, plain.eval()(clips).last_hidden_state)


def test_on_a_gpu_it_is_that_of_torch():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    names = list(model.state_dict())
    model = synchronize_batch_norm(model, "cuda")
    assert type(model[1]) is nn.SyncBatchNorm
    assert list(model.state_dict()) == names


def test_the_default_optimizer_is_fused(tmp_path):
    """One kernel for all weights on a GPU; transformers' default, on which docs/speed.md relies."""
    assert ILATrainingArguments(output_dir=str(tmp_path)).optim == "adamw_torch_fused"
