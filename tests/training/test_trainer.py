"""ILATrainer: what it adds to the Trainer, on clips of noise."""

import copy
import math
import pickle

import numpy as np
import optuna
import pytest
import torch
import yaml
from huggingface_hub import parse_eval_result_entries
from train_in_processes import KeepGradients, RandomClips
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

from ila_hf import ILAForVideoClassification, ILAForVideoTextClassification
from ila_hf.data.video_clips import IGNORED_LABEL, collate_clips
from ila_hf.demo.motion_clips import MOTIONS
from ila_hf.demo.tiny import tiny_config, tiny_tokenizer
from ila_hf.training import ILATrainer, ILATrainingArguments
from ila_hf.training.checkpoints import what_is_missing


@pytest.fixture
def make_trainer(tiny_model, tmp_path):
    """An ILATrainer on a tiny model: `make_trainer(model=None, clips=8, callbacks=(), **arguments)`."""

    def make(model=None, clips=8, callbacks=(), eval_clips=None, **arguments):
        defaults = {"output_dir": tmp_path / "run", "use_cpu": True, "report_to": "none", "disable_tqdm": True}
        defaults |= {"save_strategy": "no", "logging_steps": 1, "per_device_train_batch_size": 4}
        return ILATrainer(
            tiny_model() if model is None else model,
            ILATrainingArguments(**{**defaults, **arguments}),
            train_dataset=RandomClips(clips),
            eval_dataset=RandomClips(5) if eval_clips is None else eval_clips,
            data_collator=collate_clips,
            callbacks=list(callbacks),
        )

    return make


def frozen_batch_norm(model):
    """The model with BatchNorm that always takes its own statistics: batches do not matter to each other."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval().train = lambda mode=True, module=module: module
    return model


def logged(trainer, name):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def test_learning_rates_of_the_groups_rise_and_fall_to_a_hundredth(make_trainer):
    class Rates(TrainerCallback):
        rates = []

        def on_step_end(self, args, state, control, lr_scheduler=None, **kwargs):
            self.rates.append(lr_scheduler.get_last_lr())

    trainer = make_trainer(
        clips=16,
        callbacks=[Rates],
        num_train_epochs=5,
        learning_rate=8e-6,
        new_lr_factor=10,
        weight_decay=0.003,
        warmup_epochs=1.5,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": 0.01},
    )
    trainer.train()
    groups = {group["name"]: group for group in trainer.optimizer.param_groups}
    assert set(groups) == {"clip, decay", "clip, no decay", "new, decay", "new, no decay"}
    assert groups["new, decay"]["weight_decay"] == 0.003
    assert groups["new, no decay"]["weight_decay"] == 0
    # 4 steps an epoch, 20 in all, 6 of warm-up; the rate that follows step n
    cosine = [0.01 + 0.99 * (1 + math.cos(math.pi * (n - 6) / 14)) / 2 for n in range(6, 21)]
    factors = [*(n / 6 for n in range(1, 6)), *cosine]
    for place, name in enumerate(groups):
        base = 8e-5 if name.startswith("new") else 8e-6
        assert np.allclose([rates[place] for rates in Rates.rates], [base * factor for factor in factors])


def test_losses_are_logged_in_parts(make_trainer):
    trainer = make_trainer(clips=8, num_train_epochs=2, logging_steps=3, learning_rate=0.0)
    result = trainer.train()
    weight = trainer.model.config.alignment_loss_weight
    parts = [logged(trainer, name) for name in ("loss", "classification_loss", "alignment_loss")]
    assert len(parts[0]) == 1  # after three of the four steps
    for loss, classification, alignment in zip(*parts, strict=True):
        assert loss == pytest.approx(classification + weight * alignment, rel=1e-6)
        assert alignment > 0
    assert result.metrics["train_loss"] == pytest.approx(trainer.losses.total / 4)
    assert trainer.losses.total_batches == 4


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_run_at_once(make_trainer, value):
    class Spoil(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            if state.global_step == 1:
                with torch.no_grad():
                    model.logit_scale.fill_(value)

    trainer = make_trainer(clips=16, callbacks=[Spoil])
    with pytest.raises(FloatingPointError, match=r"not finite in step 2: loss (nan|inf), classification_loss"):
        trainer.train()
    assert trainer.state.global_step == 1


def test_a_gradient_that_is_not_finite_spoils_no_weights(make_trainer, tiny_model, tmp_path):
    model = tiny_model()
    model.logit_scale.register_hook(lambda gradient: gradient * math.inf)
    before = model.visual_projection.weight.detach().clone()
    trainer = make_trainer(model, save_strategy="steps", save_steps=1)
    with pytest.raises(FloatingPointError, match=r"The gradient is not finite in step 1: its norm is (nan|inf)"):
        trainer.train()
    assert torch.equal(model.visual_projection.weight, before)
    assert not list((tmp_path / "run").glob("checkpoint-*"))


def test_a_model_that_predicts_nan_is_no_unreadable_video(make_trainer):
    trainer = make_trainer()
    with torch.no_grad():
        trainer.model.visual_projection.weight.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="predicts values that are not finite"):
        trainer.evaluate()


def test_a_second_training_begins_anew(make_trainer):
    trainer = make_trainer(num_train_epochs=1, ema_decay=0.5, new_lr_factor=10)
    trainer.train()
    trainer.optimizer = None
    trainer.train()
    assert trainer.losses.total_batches == 2
    assert int(trainer.average.average.n_averaged) == 2
    assert len(trainer.optimizer.param_groups) == 4


def test_a_search_for_hyperparameters_trains_a_new_model_in_every_trial(make_trainer):
    """Each trial is the run that its arguments give, also where it mixes clips and averages weights."""

    def model_init():
        model = ILAForVideoTextClassification(tiny_config(num_labels=len(MOTIONS)))
        model.set_class_texts(MOTIONS, tiny_tokenizer())
        return model

    def run(**arguments):
        set_seed(0)
        trainer = make_trainer(model_init(), num_train_epochs=2, seed=0, **arguments)
        trainer.train()
        return trainer.evaluate()["eval_loss"]

    trials = [
        {"learning_rate": 1e-3, "mixup_alpha": 0.8, "ema_decay": 0.5},
        {"learning_rate": 1e-2, "mixup_alpha": 0.0, "ema_decay": 0.9},
    ]
    arguments = make_trainer(num_train_epochs=2, seed=0, ema_decay=0.5).args
    data = {"train_dataset": RandomClips(8), "eval_dataset": RandomClips(5), "data_collator": collate_clips}
    trainer = ILATrainer(args=arguments, model_init=model_init, **data)
    found = {}
    best = trainer.hyperparameter_search(
        lambda trial: trials[trial.suggest_categorical("number", [0, 1])],
        lambda metrics: found.setdefault(trainer.args.learning_rate, metrics["eval_loss"]),
        n_trials=2,
        direction="minimize",
        backend="optuna",
        sampler=optuna.samplers.GridSampler({"number": [0, 1]}),
    )
    assert found == {trial["learning_rate"]: run(**trial) for trial in trials}

    # Without an objective of one's own it is the loss, and the batches of a step follow their size
    arguments = make_trainer(num_train_epochs=1, total_batch_size=8).args
    trainer = ILATrainer(args=arguments, model_init=model_init, **data)
    search = {"n_trials": 1, "backend": "optuna"}
    found_by_default = trainer.hyperparameter_search(
        lambda trial: {"per_device_train_batch_size": trial.suggest_categorical("size", [2])}, **search
    )
    assert arguments.gradient_accumulation_steps == 4
    assert found_by_default.objective == pytest.approx(math.log(8), abs=1)
    assert best.objective == min(found.values())


@pytest.mark.parametrize(("patience", "epochs"), [(1, 2), (2, 3), (None, 4)])
def test_patience_ends_a_training_that_gets_no_better(make_trainer, patience, epochs, tmp_path):
    """A model that does not learn is best after its first epoch."""
    options = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    options |= {"metric_for_best_model": "top1", "num_train_epochs": 4, "learning_rate": 0.0, "patience": patience}
    trainer = make_trainer(save_total_limit=1, **options)
    trainer.train()
    assert trainer.state.epoch == epochs
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-2")


class Scores:
    """An evaluation in which top-1 and loss are given, epoch by epoch."""

    def __init__(self, trainer, top1, loss):
        self.trainer, self.rows = trainer, iter(zip(top1, loss, strict=True))
        self.evaluate, trainer.evaluate = trainer.evaluate, self

    def __call__(self, *args, **kwargs):
        top1, loss = next(self.rows)
        metrics = {"eval_top1": top1, "eval_loss": loss}
        self.trainer.log(metrics)
        self.trainer.control = self.trainer.callback_handler.on_evaluate(
            self.trainer.args, self.trainer.state, self.trainer.control, metrics
        )
        return metrics


@pytest.mark.parametrize(
    ("top1", "loss", "best", "epochs"),
    [
        ((0.5, 0.5, 0.5, 0.5), (3.0, 2.0, 2.5, 2.6), 2, 4),  # of equal ones the lower loss
        ((0.5, 0.7, 0.5, 0.7), (3.0, 2.0, 1.0, 1.5), 4, 4),
        ((0.5, 0.4, 0.4, 0.9), (3.0, 2.0, 1.0, 0.1), 1, 3),  # a loss alone is no progress
        ((0.5, 0.6, 0.7, 0.8), (1.0, 2.0, 3.0, 4.0), 4, 4),
    ],
)
def test_of_equal_accuracies_the_lower_loss_is_better(make_trainer, top1, loss, best, epochs):
    options = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True, "patience": 2}
    trainer = make_trainer(metric_for_best_model="top1", num_train_epochs=4, **options)
    Scores(trainer, top1, loss)
    trainer.train()
    assert trainer.state.best_model_checkpoint.endswith(f"checkpoint-{2 * best}")
    assert trainer.state.epoch == epochs


def test_patience_goes_on_where_it_was(make_trainer, tmp_path):
    """Killed after the first of two evaluations without a better result, the run ends after one more."""
    options = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True, "patience": 2}
    options |= {"metric_for_best_model": "top1", "learning_rate": 0.0, "num_train_epochs": 6}

    class Kill(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            if state.epoch == 2:
                raise KeyboardInterrupt

    trainer = make_trainer(callbacks=[Kill()], **options)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer = make_trainer(**options)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.epoch == 3


def test_the_metric_that_chooses_the_best_is_one_that_is_computed(make_trainer, tiny_model):
    options = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    make_trainer(metric_for_best_model="eval_top5", **options)
    model = tiny_model()
    model.set_class_texts(["go", "stop"], tiny_tokenizer())
    with pytest.raises(ValueError, match="one of top1, mean_class_accuracy, loss; got 'top5"):
        make_trainer(model, metric_for_best_model="top5", **options)
    with pytest.raises(ValueError, match="got 'top_1'"):
        make_trainer(metric_for_best_model="top_1", **options)


def test_what_does_not_fit_is_refused(make_trainer, tiny_model, tmp_path):
    with pytest.raises(TypeError, match="must be ILATrainingArguments, got TrainingArguments"):
        ILATrainer(tiny_model(), TrainingArguments(output_dir=tmp_path, use_cpu=True))
    arguments = ILATrainingArguments(output_dir=tmp_path, use_cpu=True)
    with pytest.raises(ValueError, match="takes no `compute_loss_func`"):
        ILATrainer(tiny_model(), arguments, compute_loss_func=print)
    with pytest.raises(ValueError, match="--auto_find_batch_size changes the batches on which --ema_decay relies"):
        make_trainer(auto_find_batch_size=True, ema_decay=0.9)


def test_only_complete_checkpoints_are_resumed(make_trainer, tmp_path):
    make_trainer(clips=16, max_steps=3, save_strategy="steps", save_steps=1, save_total_limit=2).train()
    run = tmp_path / "run"
    assert sorted(folder.name for folder in run.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-3"]
    limit = torch.load(run / "checkpoint-3" / "training_args.bin", weights_only=False).save_total_limit
    assert limit == 2
    (run / "checkpoint-3" / "complete.json").unlink()
    with pytest.raises(OSError, match="checkpoint-3': it was never finished"):
        make_trainer(clips=16, max_steps=4).train(resume_from_checkpoint=str(run / "checkpoint-3"))
    trainer = make_trainer(clips=16, max_steps=4)
    with pytest.warns(UserWarning, match="checkpoint-3' is left out"):
        trainer.train(resume_from_checkpoint=True)
    assert trainer.losses.total_batches == 4
    with pytest.raises(OSError, match="no average of the weights"):
        make_trainer(clips=16, max_steps=4, ema_decay=0.9).train(resume_from_checkpoint=str(run / "checkpoint-2"))


def test_a_finished_run_is_not_resumed_for_another_step(make_trainer, tmp_path, tiny_model):
    arguments = {"max_steps": 3, "save_strategy": "steps", "save_steps": 3, "learning_rate": 1e-3}
    first = make_trainer(**arguments)  # two steps an epoch: it ends in the middle of the second
    first.train()
    second = make_trainer(model=tiny_model(), **arguments)
    second.train(resume_from_checkpoint=True)
    assert second.state.global_step == 3
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name]), name
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-3"]


def test_the_token_is_kept_and_not_saved(make_trainer, tmp_path):
    trainer = make_trainer(hub_token="hf_secret")
    assert copy.deepcopy(trainer.args).hub_token == "hf_secret"
    assert copy.copy(trainer.args).hub_token == "hf_secret"
    assert pickle.loads(pickle.dumps(trainer.args)).hub_token is None
    trainer.save_model()
    assert b"hf_secret" not in (tmp_path / "run" / "training_args.bin").read_bytes()
    assert trainer.args.hub_token == "hf_secret"


@pytest.mark.parametrize("later", [True, False])
def test_a_token_that_is_set_later(tmp_path, later):
    arguments = ILATrainingArguments(output_dir=tmp_path, use_cpu=True)
    if later:
        arguments.hub_token = "hf_secret"
    else:
        arguments.set_push_to_hub("tester/model", token="hf_secret")
    assert arguments.hub_token == copy.copy(arguments.hub_token) == copy.deepcopy(arguments).hub_token == "hf_secret"
    assert b"hf_secret" not in pickle.dumps(arguments)
    assert "hf_secret" not in repr(arguments)


def test_a_stream_keeps_its_passes_over_a_resume(make_trainer, tmp_path, tiny_model):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return (RandomClips(8)[i] for i in range(8))

    scales = []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            scales.append(float(model.vision_model.encoder.layers[0].temporal.alignment.mask.jitter_scale))

    def run(steps, **arguments):
        trainer = make_trainer(
            tiny_model(vision={"mask_jitter_decay_epoch": 1}),
            callbacks=[Watch],
            max_steps=steps,
            save_strategy="steps",
            save_steps=4,
            **arguments,
        )
        trainer.train_dataset = Stream()
        return trainer

    run(4).train()  # two batches a pass: the second pass has just ended
    assert scales == [1, 1, 0.5, 0.5]
    run(6).train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))
    assert scales[4:] == [0.25, 0.25]


def test_accumulation_is_a_larger_batch(make_trainer, tiny_model):
    gradients = []
    for batch, total in ((8, 8), (4, 8), (2, 8)):
        keep = KeepGradients()
        model = frozen_batch_norm(tiny_model())
        make_trainer(
            model, 8, [keep], per_device_train_batch_size=batch, total_batch_size=total, max_steps=1, max_grad_norm=0
        ).train()
        gradients.append(keep.gradients)
    for other in gradients[1:]:
        for name, gradient in gradients[0].items():
            assert torch.allclose(other[name], gradient, rtol=1e-5, atol=1e-5), name


def test_total_batch_size(tmp_path):
    arguments = {"output_dir": tmp_path, "use_cpu": True, "per_device_train_batch_size": 8}
    assert ILATrainingArguments(**arguments, total_batch_size=256).gradient_accumulation_steps == 32
    with pytest.raises(ValueError, match="--total_batch_size 20 is no multiple of the 8 clips"):
        ILATrainingArguments(**arguments, total_batch_size=20)


def test_gradients_are_clipped(make_trainer):
    keep = KeepGradients()
    trainer = make_trainer(callbacks=[keep], max_steps=1, max_grad_norm=0.01)
    trainer.train()
    norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in keep.gradients.values()))
    assert norm == pytest.approx(0.01, rel=1e-3)
    assert logged(trainer, "grad_norm")[0] > 0.01  # before


def test_mixing_and_label_smoothing_reach_the_model(make_trainer, tiny_model):
    seen = []
    model = tiny_model()
    forward = model.forward

    def keep(pixel_values=None, labels=None, **kwargs):
        seen.append((pixel_values.clone(), None if labels is None else labels.clone()))
        return forward(pixel_values=pixel_values, labels=labels, **kwargs)

    model.forward = keep
    trainer = make_trainer(model, mixup_alpha=0.8, cutmix_alpha=1.0, label_smoothing_factor=0.1, num_train_epochs=2)
    trainer.train()
    training = [labels for _, labels in seen if labels is not None]
    assert len(training) == 4
    for labels in training:
        assert labels.shape == (4, 8)
        assert torch.allclose(labels.sum(1), torch.ones(4), atol=1e-6)
        assert float(labels.min()) == pytest.approx(0.1 / 8, abs=1e-6)
    assert logged(trainer, "alignment_loss")[0] > 0
    # Evaluation sees the clips as they are
    seen.clear()
    trainer.evaluate()
    assert torch.equal(seen[0][0], torch.stack([RandomClips(5)[i]["pixel_values"] for i in range(5)]))


def test_checkpointing_updates_batch_norm_once(make_trainer, tiny_model):
    counts, weights = [], []
    fields = ILATrainingArguments.__dataclass_fields__  # its name depends on the version of transformers
    name = "activation_checkpointing" if "activation_checkpointing" in fields else "gradient_checkpointing"
    for arguments in ({}, {name: True}):
        model = tiny_model()
        make_trainer(model, max_steps=2, **arguments).train()
        norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        counts.append({int(norm.num_batches_tracked) for norm in norms})
        weights.append(torch.cat([norm.running_mean for norm in norms]))
    assert counts == [{2}, {2}]
    assert torch.allclose(weights[0], weights[1], atol=1e-6)


def test_bfloat16(make_trainer):
    trainer = make_trainer(bf16=True, max_steps=2)
    trainer.train()
    assert all(math.isfinite(loss) for loss in logged(trainer, "loss"))
    assert all(parameter.dtype == torch.float32 for parameter in trainer.model.parameters())
    assert trainer.evaluate()["eval_num_clips"] == 5


@pytest.mark.slow
def test_compiled_training_is_the_same(make_trainer, tiny_model):
    losses = []
    for arguments in ({}, {"torch_compile": True}):
        trainer = make_trainer(tiny_model(), max_steps=3, learning_rate=1e-3, **arguments)
        trainer.train()
        losses.append(logged(trainer, "loss"))
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_moving_average_is_evaluated_and_saved(make_trainer, tiny_model, tmp_path):
    class Average(TrainerCallback):
        own = None

        def on_step_end(self, args, state, control, model=None, **kwargs):
            weight = model.visual_projection.weight.detach().clone()
            Average.own = weight if Average.own is None else 0.5 * Average.own + 0.5 * weight

    trainer = make_trainer(callbacks=[Average], num_train_epochs=3, learning_rate=1e-2, ema_decay=0.5)
    trainer.train()
    raw = trainer.model.visual_projection.weight.detach().clone()
    assert not torch.allclose(raw, Average.own, atol=1e-4)
    metrics = trainer.evaluate()
    trainer.save_model()
    assert torch.equal(trainer.model.visual_projection.weight, raw)
    saved = type(trainer.model).from_pretrained(tmp_path / "run")
    assert torch.allclose(saved.visual_projection.weight, Average.own, atol=1e-6)
    again = make_trainer(saved).evaluate()
    assert again["eval_loss"] == pytest.approx(metrics["eval_loss"], abs=1e-6)


def test_an_average_of_split_weights_is_refused(make_trainer, monkeypatch):
    create = ILATrainer.create_accelerator_and_postprocess

    def enable(self):
        create(self)
        self.is_fsdp_enabled = True

    monkeypatch.setattr(ILATrainer, "create_accelerator_and_postprocess", enable)
    with pytest.raises(ValueError, match="FSDP splits them"):
        make_trainer(ema_decay=0.9)


def test_evaluation_counts_unreadable_clips_as_misses(make_trainer):
    class Clips(RandomClips):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            return {**sample, "labels": IGNORED_LABEL} if index == 1 else sample

    whole, broken = make_trainer().evaluate(), make_trainer(eval_clips=Clips(5)).evaluate()
    assert broken["eval_num_clips"] == whole["eval_num_clips"] == 5
    assert 0 <= whole["eval_top1"] - broken["eval_top1"] <= 1 / 5
    assert broken["eval_top5"] <= 4 / 5
    assert broken["eval_num_unreadable"] == 1
    assert "eval_num_unreadable" not in whole


def test_evaluation_leaves_the_random_state(make_trainer):
    trainer = make_trainer()
    state = torch.random.get_rng_state()
    trainer.evaluate()
    assert torch.equal(torch.random.get_rng_state(), state)


def test_metrics_of_the_user_are_kept(tiny_model, tmp_path):
    arguments = ILATrainingArguments(output_dir=tmp_path, use_cpu=True, report_to="none", disable_tqdm=True)
    trainer = ILATrainer(
        tiny_model(),
        arguments,
        eval_dataset=RandomClips(5),
        data_collator=collate_clips,
        compute_metrics=lambda prediction: {"shape": prediction.predictions.shape},
    )
    assert trainer.evaluate()["eval_shape"] == (5, 8)


def test_linear_probe(make_trainer, tiny_model):
    model = tiny_model(ILAForVideoClassification, num_labels=8)
    model.freeze("trunk")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    make_trainer(model, max_steps=2, learning_rate=1e-2).train()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"classifier.weight", "classifier.bias"}


def test_frozen_towers_need_no_search_for_unused_parameters(make_trainer, tiny_model):
    for model_class, part in ((None, "text"), (None, "clip"), (ILAForVideoClassification, "vision")):
        model = tiny_model() if model_class is None else tiny_model(model_class, num_labels=8)
        model.freeze(part)
        keep = KeepGradients()
        trainer = make_trainer(model, callbacks=[keep], max_steps=1)
        trainer.train()
        assert trainer.args.ddp_find_unused_parameters is False
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert keep.gradients.keys() == trained  # all have a gradient: one without would have no `clone`


def test_card_and_curves_of_a_run(make_trainer, tiny_model, tmp_path):
    from ila_hf.demo.tiny import tiny_processor

    model = tiny_model()
    trainer = make_trainer(model, num_train_epochs=2, eval_strategy="epoch", learning_rate=2e-4)
    trainer.processing_class = tiny_processor(model.config)
    trainer.train()
    trainer.create_model_card(model_name="someone/my-ila")
    card = (tmp_path / "run" / "README.md").read_text()
    top1 = logged(trainer, "eval_top1")[-1]
    for text in ("pipeline_tag: video-classification", "someone/my-ila", "0.0002", f"{100 * top1:.1f}"):
        assert text in card
    assert (tmp_path / "run" / "curves.png").stat().st_size > 5000
    results = tmp_path / "run" / ".eval_results" / "ila_hf.yaml"
    assert not results.exists()
    trainer.create_model_card(dataset="someone/motions")
    assert not results.exists()  # it may have been evaluated on others
    trainer.create_model_card(evaluated_on="someone/motions")
    (entry,) = parse_eval_result_entries(yaml.safe_load(results.read_text()))
    assert (entry.dataset_id, entry.value) == ("someone/motions", round(100 * top1, 2))
    assert entry.notes == "top-1 accuracy in %, 1 × 1 views (clips × crops)"
    trainer.create_model_card(evaluated_on="my own videos")
    assert not results.exists()


def test_output_folder_that_cannot_be_written(make_trainer, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Cannot write to the output folder"):
        make_trainer(output_dir=tmp_path / "file" / "run")


def test_frozen_class_texts_are_encoded_once(make_trainer, tiny_model, monkeypatch):
    calls = []
    model = tiny_model()
    model.freeze("text")
    encode = model._encode_class_texts
    monkeypatch.setattr(model, "_encode_class_texts", lambda: calls.append(1) or encode())
    make_trainer(model, clips=16).train()
    assert len(calls) == 1


def test_a_resume_with_other_arguments_is_told(make_trainer, tiny_model, tmp_path):
    save = {"save_strategy": "steps", "save_steps": 2, "clips": 16, "max_steps": 4}
    make_trainer(learning_rate=1e-4, **save).train()
    checkpoint = str(tmp_path / "run" / "checkpoint-2")
    with pytest.warns(UserWarning, match=r"began with learning_rate 0.0001, and goes on with 0.01"):
        make_trainer(learning_rate=1e-2, **save).train(resume_from_checkpoint=checkpoint)
    model = tiny_model()
    model.freeze("clip")
    with pytest.raises(OSError, match="trained other parameters than this run; give the --freeze and --head"):
        make_trainer(model, learning_rate=1e-4, **save).train(resume_from_checkpoint=checkpoint)


def test_an_evaluation_leaves_the_curves_of_the_training(make_trainer, tmp_path):
    make_trainer(max_steps=1).train()
    curves = (tmp_path / "run" / "curves.png").read_bytes()
    make_trainer().evaluate()
    assert (tmp_path / "run" / "curves.png").read_bytes() == curves


def test_fsdp_is_switched_on_as_everything_else(tmp_path):
    fields = [{"fsdp": word} for word in ("True", "true", True)]
    assert [ILATrainingArguments(output_dir=tmp_path, use_cpu=True, **field).fsdp for field in fields] == [True] * 3
    assert not ILATrainingArguments(output_dir=tmp_path, use_cpu=True, fsdp="False").fsdp


def test_a_checkpoint_is_pushed_when_it_is_complete(make_trainer, monkeypatch):
    pushed = []
    monkeypatch.setattr(ILATrainer, "init_hf_repo", lambda self, *args, **kwargs: None)
    monkeypatch.setattr(Trainer, "_push_from_checkpoint", lambda self, folder: pushed.append(what_is_missing(folder)))
    trainer = make_trainer(clips=16, max_steps=2, save_strategy="steps", save_steps=1)
    trainer.args.push_to_hub = True
    trainer.train()
    assert pushed == [None, None]
