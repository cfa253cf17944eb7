# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Names of classes, from the files that data sets and the Hub ship."""

import csv
import json
from pathlib import Path

from huggingface_hub import hf_hub_download

from ..checks_ila import check_names


# Label files of https://huggingface.co/datasets/huggingface/label-files
HUB_LABELS = {"kinetics400": "kinetics400-id2label.json", "ssv2": "something-something-v2-id2label.json"}


def read_labels(labels: str | Path) -> list[str]:
    """Read class names in the order of their ids.

    Args:
        labels: A csv with the columns `id` and `name` (as the original repository ships), a json of id to name (as
            the Hub's label files) or of name to id (as SSv2 ships), a text file with a name per line, or "kinetics400"
            / "ssv2" for the Hub's files.

    Raises:
        ValueError: If the ids are not 0 to K - 1, each once, if names repeat, or there are none.
        FileNotFoundError: If there is no such file.
    """
    if str(labels) in HUB_LABELS and not Path(labels).exists():
        labels = hf_hub_download("huggingface/label-files", HUB_LABELS[str(labels)], repo_type="dataset")
    path = Path(labels)
    if not path.is_file():
        raise FileNotFoundError(f"There is no label file {str(path)!r}; for the Hub's use {' or '.join(HUB_LABELS)}.")
    try:
        pairs = _label_pairs(path)
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{str(path)!r} is not a list of class names: {error}") from error
    ids, names = [i for i, _ in pairs], dict(pairs)
    if not ids or sorted(ids) != list(range(len(ids))):
        raise ValueError(f"{str(path)!r} must name every class from 0 to K - 1 once, got the ids {sorted(ids)}.")
    check_names(list(names.values()), f"The names of classes in {str(path)!r}")
    return [names[i] for i in range(len(names))]


def _label_pairs(path: Path) -> list[tuple[int, str]]:
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix.lower() == ".json":
        pairs = json.loads(text).items()
        if pairs and not all(str(key).isdecimal() for key, _ in pairs):
            return [(int(i), str(name)) for name, i in pairs]
        return [(int(i), str(name)) for i, name in pairs]
    if path.suffix.lower() == ".csv":
        reader = csv.DictReader(text.splitlines())
        if not {"id", "name"} <= set(reader.fieldnames or []):
            raise ValueError(f"it must have the columns id and name, got {reader.fieldnames}")
        return [(int(row["id"]), row["name"]) for row in reader]
    return list(enumerate(line.strip() for line in text.splitlines() if line.strip()))
