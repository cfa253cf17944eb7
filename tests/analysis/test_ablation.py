"""`ila-hf ablate`: the rows of a table as training runs, what is told of them, and going on."""

import json
import re
import shutil
from pathlib import Path

import pytest
from transformers import CLIPConfig, CLIPModel

from ila_hf import ILAConfig, ILAForVideoClassification
from ila_hf.__main__ import main
from ila_hf.analysis import FrameDistances, ablation, ablation_table
from ila_hf.analysis.ablation import ABLATIONS, build_parts, row_config, rows_to_train
from ila_hf.analysis.paper_tables import TABLES, PaperRow
from ila_hf.data.run_folders import in_use
from ila_hf.demo.motion_videos import make_motion_videos
from ila_hf.demo.tiny import tiny_config
from ila_hf.evaluation import VideoClassificationMetric
from ila_hf.temporal_ila import make_temporal_module


def test_table():
    rows = [PaperRow("none", 37, 79.8, earth_movers=0.56), PaperRow("ours"), PaperRow("not run", top1=1.0)]
    results = {
        "none": {"0": {"top1": 0.5, "earth_movers": 0.25}, "1": {"top1": 0.6, "earth_movers": 0.35}},
        "ours": {"0": {"top1": 0.755, "earth_movers": 0.1, "in_place": 0.15, "pair_accuracy": 0.5}},
    }
    # By hand: 50 and 60 deviate by 50**0.5 = 7.07, 0.25 and 0.35 by 0.005**0.5 = 0.0707
    assert ablation_table(rows, results).splitlines() == [
        "| | top-1 | pairs | earth mover's | in place | seeds | paper: top-1 | paper: earth mover's |",
        "|---|---|---|---|---|---|---|---|",
        "| none | 55.0 ± 7.1 |  | 0.300 ± 0.071 |  | 2 | 79.8 | 0.56 |",
        "| ours | 75.5 | 50.0 | 0.100 | 0.150 | 1 |  |  |",
        "| not run |  |  |  |  | 0 | 1.0 |  |",
    ]
    results["none"]["1"]["pair_accuracy"] = 0.5  # of one of two runs
    assert ablation_table(rows, results).splitlines()[2].startswith("| none | 55.0 ± 7.1 |  | 0.300")
    assert ablation_table([PaperRow("ours")], results).splitlines()[0].endswith("| in place | seeds |")
    none, ours, _ = ablation.summary(rows, results)
    assert none["mean"] == {"top1": pytest.approx(0.55), "earth_movers": pytest.approx(0.3)}
    assert none["sd"] == {"top1": pytest.approx(0.0707, abs=1e-4), "earth_movers": pytest.approx(0.0707, abs=1e-4)}
    assert (none["seeds"], none["paper"]) == (2, {"top1": 0.798, "earth_movers": 0.56})
    assert (ours["sd"]["top1"], ours["paper"]) == (None, {"top1": None, "earth_movers": None})
    plain = ablation_table(rows[:1], {"none": {"0": {"top1": 1.0}}}).splitlines()
    assert plain == ["| | top-1 | seeds | paper: top-1 |", "|---|---|---|---|", "| none | 100.0 | 1 | 79.8 |"]


@pytest.mark.parametrize("table", ABLATIONS)
def test_a_row_changes_what_it_says_and_nothing_else(table):
    config = tiny_config({"num_hidden_layers": 12}, num_frames=6)
    for row in rows_to_train(table):
        changed = row_config(config, row)
        assert changed.num_frames == 6
        vision = changed.vision_config.to_dict()
        options = dict(vision["temporal_options"] or {})
        assert options.pop("num_frames", 6) == 6
        for name, value in (row.vision or {}).items():
            if name == "temporal_options":
                assert options == {key: option for key, option in value.items() if key != "num_frames"}
            else:
                assert vision[name] == value
        same = vision.keys() - {*(row.vision or {}), "temporal_options"}
        assert {name: vision[name] for name in same} == {
            name: value for name, value in config.vision_config.to_dict().items() if name in same
        }
        fields = changed.to_dict()
        for name, value in (row.fields or {}).items():
            assert fields[name] == value
        assert changed.prompt_num_hidden_layers == (row.fields or {}).get("prompt_num_hidden_layers", 2)
        build_parts(changed)
    assert config.to_dict() == tiny_config({"num_hidden_layers": 12}, num_frames=6).to_dict()


def test_of_tables_of_systems_each_is_a_row_of_one_size():
    assert [row.name for row in rows_to_train("1")] == [
        "X-CLIP",
        "CLIP",
        "ATA",
        "ST-Adapter",
        "AIM",
        "EVL",
        "ILA",
    ]
    assert [row.name for row in rows_to_train("2")] == ["EVL", "AIM", "ILA"]
    assert [row.name for row in rows_to_train("3")] == ["TimeSformer", "ILA", "EVL", "EVL + ILA"]
    for table in "123":
        assert all(row.top1 is None and row.flops is None for row in rows_to_train(table))
        aim = [row.vision["temporal_options"] for row in rows_to_train(table) if row.name == "AIM"]
        assert all(("joint_scale" in options) == (table == "2") for options in aim)  # SSv2's form


def test_distances_are_measured_of_table_5(trained, base, tmp_path, monkeypatch, capsys):
    asked = []

    def distances(model, videos):
        asked.append((Path(model).parent.name, videos))
        return FrameDistances(0.25, 0.5)

    monkeypatch.setattr(ablation, "video_distances", distances)
    main(["ablate", "5", "--output_dir", str(tmp_path / "five"), "--seeds", "1", *base])
    published = {"none": 0.56, "X-CLIP": 0.51, "divided space-time attention": 0.47, "ATA": 0.3, "ILA": 0.13}
    assert [videos for _, videos in asked] == ["held_out"] * len(published)
    report = (tmp_path / "five/ablation.md").read_text()
    for name, value in published.items():
        assert re.search(rf"^\| {name} \| .* \| 0.250 \| 0.500 \| 1 \| .* \| {value} \|$", report, re.MULTILINE)
    assert "The paper does not define its own" in report
    main(["ablate", "9", "--output_dir", str(tmp_path / "nine"), "--seeds", "1", *base])
    assert len(asked) == len(published)
    main(["ablate", "9", "--output_dir", str(tmp_path / "also"), "--seeds", "1", "--distances", *base])
    assert [row for row, _ in asked[len(published) :]] == ["addition", "concatenation", "token"]
    one_frame = tmp_path / "one"
    tiny_config(num_frames=1).save_pretrained(one_frame)
    for words, message in (
        ([*base[:4], "--validation_file", "list.csv"], "Distances between frames need --validation_dir"),
        ([*base, "--config_name", str(one_frame)], "Distances between frames need clips of two or more"),
        (base, "The earth mover's distance needs scipy"),
    ):
        monkeypatch.setattr("ila_hf.analysis.movement.is_scipy_available", lambda words=words: words is not base)
        with pytest.raises(SystemExit):
            main(["ablate", "5", "--output_dir", str(tmp_path / "none"), *words])
        assert message in capsys.readouterr().err


def test_what_cannot_be_measured_does_not_end_the_others(trained, base, tmp_path, monkeypatch):
    def distances(model, videos):
        if "concatenation" in model:
            raise ValueError("matrix contains invalid numeric entries")
        return FrameDistances(0.25, 0.5)

    monkeypatch.setattr(ablation, "video_distances", distances)
    with pytest.raises(SystemExit):
        main(["ablate", "9", "--output_dir", str(tmp_path / "out"), "--seeds", "1", "--distances", *base])
    report = (tmp_path / "out/ablation.md").read_text()
    assert "Failed: concatenation, seed 0 (matrix contains invalid numeric entries)." in report
    assert "| token | 80.0 | 0.250 | 0.500 | 1 | 81.3 |" in report


def test_what_the_tables_compare_is_as_in_the_paper():
    config = tiny_config({"interaction_token": True, "alignment_layers": [0]})
    for row in TABLES["4"]:
        vision = row_config(config, row).vision_config
        assert vision.interaction_token == ("interaction token" in row.name)
        assert vision.alignment_layers is None
        make_temporal_module(vision, 1)  # refuses fields that mean nothing


@pytest.mark.parametrize("vision", [{"first_frame": "self"}, {"architecture": "released"}])
def test_of_what_no_table_compares_ila_keeps_its_own(vision):
    for row in TABLES["4"][:-1]:  # the last, our token, is not of the released architecture
        found = row_config(tiny_config(vision), row).vision_config
        kept = found.temporal_module == "ila"
        for name, value in vision.items():
            assert (getattr(found, name) == value) == kept
        make_temporal_module(found, 1)


@pytest.fixture
def trained(monkeypatch):
    """Trainings that are not made: their arguments by row and seed. `of[folder name]` are their accuracies."""
    runs = {}

    def train(words):
        named = dict(zip(words[::2], words[1::2], strict=True))
        folder = Path(named["--output_dir"])
        runs[folder.parent.name, named["--seed"]] = named
        if folder.parent.name in train.fail:
            return 3
        top1 = 0.5 + 0.1 * len(runs)
        (folder / "eval_results.json").write_text(
            json.dumps({"eval_top1": top1, "eval_top5": 1.0, "eval_loss": 0.1, "eval_runtime": 3.0})
        )
        return 0

    train.fail, train.runs = set(), runs
    monkeypatch.setattr(ablation, "train", train)
    return train


@pytest.fixture
def base(tmp_path):
    tiny_config().save_pretrained(tmp_path / "config")
    words = {"config_name": tmp_path / "config", "train_dir": "videos", "validation_dir": "held_out"}
    words["num_train_epochs"] = 2
    return [word for name, value in words.items() for word in (f"--{name}", str(value))]


def test_every_row_is_a_run_with_every_seed(trained, base, tmp_path, capsys):
    output = tmp_path / "out"
    main(["ablate", "11", "--output_dir", str(output), "--seeds", "2", *base])
    assert list(trained.runs) == [
        ("without-the-prompt", "0"),
        ("with-the-prompt", "0"),
        ("without-the-prompt", "1"),
        ("with-the-prompt", "1"),
    ]
    for (row, seed), words in trained.runs.items():
        config = ILAConfig.from_pretrained(words["--config_name"])
        assert config.prompt_num_hidden_layers == (0 if row == "without-the-prompt" else 2)
        assert words["--output_dir"] == str(output / row / f"seed-{seed}")
        assert (words["--train_dir"], words["--num_train_epochs"]) == ("videos", "2")
        assert words["--resume_from_checkpoint"] == "True"
        assert words["--eval_strategy"] == "no"  # the last epoch counts, not the best
    found = json.loads((output / "ablation.json").read_text())
    assert found["results"]["with the prompt"] == {
        "0": {"top1": 0.7, "top5": 1.0, "loss": 0.1},
        "1": {"top1": 0.9, "top5": 1.0, "loss": 0.1},
    }
    report = (output / "ablation.md").read_text()
    assert "| without the prompt | 70.0 ± 14.1 | 2 | 80.8 |" in report
    assert "| with the prompt | 80.0 ± 14.1 | 2 | 81.3 |" in report
    assert f"--config_name {tmp_path / 'config'} --train_dir videos --validation_dir held_out" in report
    assert "--save_total_limit 2`, torch" in report  # also what was added
    assert report in capsys.readouterr().out
    # What is there is not made again, nor what an earlier version wrote; another seed is
    del found["distances"]
    (output / "ablation.json").write_text(json.dumps(found))
    trained.runs.clear()
    main(["ablate", "11", "--output_dir", str(output), "--seeds", "2", *base])
    assert not trained.runs
    main(["ablate", "11", "--output_dir", str(output), "--seeds", "3", *base])
    assert [seed for _, seed in trained.runs] == ["2", "2"]
    with pytest.raises(SystemExit):
        main(["ablate", "11", "--output_dir", str(output), *base[:-1], "4"])
    assert "arguments.num_train_epochs was 2.0, is 4.0" in capsys.readouterr().err


def test_a_schedule_of_ones_own_stays(trained, base, tmp_path):
    words = ["ablate", "11", "--seeds", "1", *base]
    main([*words, "--output_dir", str(tmp_path / "one"), "--save_strategy", "no"])
    assert all("--eval_strategy" not in words for words in trained.runs.values())
    main([*words, "--output_dir", str(tmp_path / "two"), "--save_total_limit", "1"])
    assert all(words["--save_total_limit"] == "1" for words in list(trained.runs.values())[2:])


def test_a_killed_run_goes_on_with_the_same_arguments_only(trained, base, tmp_path, monkeypatch, capsys):
    def killed(words):
        raise KeyboardInterrupt

    words = ["ablate", "11", "--output_dir", str(tmp_path / "out"), *base, "--learning_rate"]
    monkeypatch.setattr(ablation, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        main([*words, "1e-3"])
    with pytest.raises(SystemExit):
        main([*words, "5e-5"])
    assert "arguments.learning_rate was 0.001, is 5e-05" in capsys.readouterr().err
    with in_use(tmp_path / "out"), pytest.raises(SystemExit):
        main([*words, "1e-3"])
    assert "is in use by another run" in capsys.readouterr().err
    tiny_config({"num_attention_heads": 4}).save_pretrained(tmp_path / "config")
    with pytest.raises(SystemExit):
        main([*words, "1e-3"])
    assert "config.vision_config.num_attention_heads was 2, is 4" in capsys.readouterr().err


def test_a_run_without_an_evaluation_has_failed(base, tmp_path, monkeypatch):
    monkeypatch.setattr(ablation, "train", lambda words: 0)
    with pytest.raises(SystemExit):
        main(["ablate", "11", "--output_dir", str(tmp_path / "out"), "--seeds", "1", *base])
    report = (tmp_path / "out/ablation.md").read_text()
    assert report.count("it was not evaluated: are there validation videos?") == 2


def test_few_classes_have_no_top5(base, tmp_path, monkeypatch):
    of_four = VideoClassificationMetric([*"abcd"])
    of_four.add_batch(predictions=[[0.7, 0.1, 0.1, 0.1], [0.1, 0.7, 0.1, 0.1]], references=[0, 0])
    metrics = {f"eval_{name}": value for name, value in of_four.compute().items() if isinstance(value, float)}

    def train(words):
        folder = Path(words[words.index("--output_dir") + 1])
        (folder / "eval_results.json").write_text(json.dumps(metrics))
        return 0

    monkeypatch.setattr(ablation, "train", train)
    main(["ablate", "11", "--output_dir", str(tmp_path / "out"), "--seeds", "1", *base])
    results = json.loads((tmp_path / "out/ablation.json").read_text())["results"]
    assert results["with the prompt"]["0"] == {"top1": 0.5, "loss": metrics["eval_loss"]}


def test_a_row_that_fails_does_not_end_the_others(trained, base, tmp_path, capsys):
    trained.fail.add("without-the-prompt")
    words = ["ablate", "11", "--output_dir", str(tmp_path / "out"), "--seeds", "1", *base]
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 1
    report = (tmp_path / "out/ablation.md").read_text()
    assert "Failed: without the prompt, seed 0 (exit status 3)." in report
    assert "| with the prompt | 70.0 | 1 | 81.3 |" in report
    trained.fail.clear()
    trained.runs.clear()
    main(words)
    assert list(trained.runs) == [("without-the-prompt", "0")]
    assert "Failed" not in (tmp_path / "out/ablation.md").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seed", "3"], "--seed cannot be given: every run of the table has its own"),
        (["--push_to_hub", "True"], "--push_to_hub cannot be given"),
        (["--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["--learning_rat", "1"], "There is no argument 'learning_rat'. Did you mean learning_rate"),
        (["--do_eval", "False"], "--do_eval cannot be given"),
        (["--interaction_token", "True"], "--interaction_token cannot be given"),
        (["--head", "linear"], "Table 11 compares models with and without the text prompt: a linear head has none"),
        (["--pairs", "--validation_dir", "{videos}"], "have numbers for names, such as 0000012.mp4, got 'mine.mp4'"),
    ],
)
def test_arguments_that_do_not_fit(trained, base, tmp_path, words, message, capsys, video_file):
    (tmp_path / "held_out/class").mkdir(parents=True)
    shutil.copy(video_file, tmp_path / "held_out/class/mine.mp4")
    words = [word.format(videos=tmp_path / "held_out") for word in words]
    with pytest.raises(SystemExit):
        main(["ablate", "11", "--output_dir", str(tmp_path / "out"), *base, *words])
    assert message in capsys.readouterr().err
    assert not trained.runs


def test_videos_and_layers_that_do_not_fit(trained, base, tmp_path, capsys):
    words = ["ablate", "7", "--output_dir", str(tmp_path / "out")]
    for more, message in (
        ([*base[:4]], "The rows are compared on validation videos: give --validation_dir"),
        ([*base[:4], "--validation_file", "list.csv", "--order"], "order of frames need --validation_dir"),
        (base, "The row 'layers 4-6' does not fit the model: `alignment_layers` must be between 0"),
    ):
        with pytest.raises(SystemExit):
            main([*words, *more])
        assert message in capsys.readouterr().err
    assert not trained.runs


def test_the_head_may_be_that_of_the_configuration(trained, base, tmp_path, capsys):
    tiny_config(architectures=["ILAForVideoClassification"]).save_pretrained(tmp_path / "config")
    words = ["--output_dir", str(tmp_path / "out"), "--seeds", "1", *base]
    with pytest.raises(SystemExit):
        main(["ablate", "11", *words])
    assert "with and without the text prompt: a linear head has none" in capsys.readouterr().err
    assert not trained.runs
    main(["ablate", "9", *words])
    assert {run["--head"] for run in trained.runs.values()} == {"linear"}
    main(["ablate", "11", *words[:1], str(tmp_path / "text"), *words[2:], "--head", "text"])


def test_a_trained_model_does_not_fit(trained, base, tmp_path, capsys):
    config = tiny_config()
    ILAForVideoClassification(config).save_pretrained(tmp_path / "ila")
    fields = {"text_config": config.text_config.to_dict(), "vision_config": config.vision_config.to_dict()}
    CLIPModel(CLIPConfig(projection_dim=config.projection_dim, **fields)).save_pretrained(tmp_path / "clip")
    words = ["ablate", "4", "--output_dir", str(tmp_path / "out"), "--seeds", "1", *base, "--model_name_or_path"]
    with pytest.raises(SystemExit):
        main([*words, str(tmp_path / "ila")])
    assert "is a trained ILA model: rows that are like it would start" in capsys.readouterr().err
    assert not trained.runs
    main([*words, str(tmp_path / "clip")])
    assert len(trained.runs) == len(TABLES["4"])


def test_every_row_is_built_before_any_is_trained(trained, base, tmp_path, monkeypatch, capsys):
    words = ["ablate", "4", "--output_dir", str(tmp_path / "out"), *base]
    tiny_config({"hidden_size": 4}).save_pretrained(tmp_path / "config")
    with pytest.raises(SystemExit):
        main(words)
    assert "The row 'temporal shift' does not fit the model: `shift_div` must be at most" in capsys.readouterr().err
    tiny_config().save_pretrained(tmp_path / "config")
    monkeypatch.setattr("ila_hf.temporal_baselines_ila.linear_sum_assignment", None)
    with pytest.raises(SystemExit):
        main(words)
    assert "needs scipy: pip install" in capsys.readouterr().err
    assert not trained.runs


@pytest.mark.slow
def test_a_table_is_trained_and_scored(tmp_path):
    make_motion_videos(tmp_path / "videos", {"train": 16, "validation": 8}, kind="reversed_pairs")
    tiny_config().save_pretrained(tmp_path / "config")
    words = ["ablate", "9", "--output_dir", str(tmp_path / "out"), "--seeds", "1", "--pairs", "--distances"]
    words += ["--config_name", str(tmp_path / "config"), "--head", "linear", "--max_steps", "2", "--use_cpu", "True"]
    words += [f"--{split}_dir={tmp_path / 'videos' / split}" for split in ("train", "validation")]
    main(words)
    results = json.loads((tmp_path / "out/ablation.json").read_text())["results"]
    assert list(results) == ["addition", "concatenation", "token"]
    joins = [
        ILAConfig.from_pretrained(tmp_path / "out" / name / "seed-0").vision_config.alignment_join for name in results
    ]
    assert joins == ["add", "concatenate", "token"]
    assert len({runs["0"]["loss"] for runs in results.values()}) == 3
    for runs in results.values():
        shares = {"top1", "shuffled_top1", "pair_accuracy", "shuffled_pair_accuracy"}
        assert runs["0"].keys() == {"top5", "loss", "earth_movers", "in_place", *shares}
        assert all(0 <= runs["0"][name] <= 1 for name in shares)
        assert 0 < runs["0"]["earth_movers"] <= runs["0"]["in_place"]
