# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Labels or features of a collection of videos on a cluster, by Ray Data: `ila-hf label --engine ray`.

Ray is an extra: `pip install 'ila-hf[ray]'`.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq

from ..data.run_folders import in_use
from ..data.video_lists import check_names
from ..data.whole_files import replace_file
from .labeling import VideoLabeler, absolute_paths
from .result_folder import ResultFolder


logger = logging.getLogger(__name__)

# Of the cluster, beside those of the actors: one that leaves out what is done, one that reads and writes tables
_OTHER_CPUS = 2


def label_with_ray(
    videos: Sequence[str],
    output_dir: str | Path,
    model: str,
    num_actors: int = 1,
    shard_size: int = 256,
    resources: dict[str, Any] | None = None,
    **options: Any,
) -> pyarrow.dataset.Dataset:
    """Write a row for every video, with actors of Ray, each of which has the model.

    The cluster is the one that Ray has been connected to; else the one that runs on this machine or that `RAY_ADDRESS`
    names; else one of this machine alone is started. Its machines have this package, the videos at the same paths, and
    `output_dir`, which holds:

        _run.json      what the rows depend on, as in [`ResultFolder`]
        videos.parquet the paths of this call
        checkpoint/    Ray's: the paths that are done. The same call goes on there, also if the list has grown
        rows/          files of Parquet, with the rows that [`label_videos`] writes

    Args:
        videos: Paths, which are made absolute, or addresses.
        output_dir: A folder that all machines share.
        model: Folder or Hub id, which all machines can read.
        num_actors: How many actors.
        shard_size: Videos that an actor takes at a time: what its end may cost.
        resources: Of an actor, as `map_batches` takes them. Default: a GPU if the cluster has any, or else a CPU for
            the model and one for each reader.
        options: Of [`VideoLabeler`].

    A run whose driver is lost while its cluster goes on must have ended before the next begins.

    Returns:
        All rows of the folder, also those of earlier calls: `.to_table()`, `.to_batches()`.

    Raises:
        ImportError: Without Ray.
        ValueError: For a folder of other results, for numbers below 1, and for names that are no UTF-8.
    """
    for name, value in {"num_actors": num_actors, "shard_size": shard_size}.items():
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}.")
    try:
        import ray
    except ImportError as error:
        raise ImportError("Clusters need Ray: pip install 'ila-hf[ray]'.") from error
    paths = absolute_paths(videos)
    model = os.path.abspath(model) if os.path.isdir(model) else model  # actors are in folders of their own
    check_names(paths, "Ray's tables")
    labeler = VideoLabeler(model, **{**options, "device": "cpu"})
    output = Path(output_dir).resolve()
    folder = ResultFolder(output, {"engine": "ray", **labeler.fingerprint()}, labeler.schema)
    with in_use(folder.folder):
        folder.bind()
        table = pa.table({"path": pa.array(paths, pa.string())})
        replace_file(output / "videos.parquet", lambda file: pq.write_table(table, file))
        _connect(num_actors, labeler.num_workers)
        if resources is None:
            resources = {"num_gpus": 1} if _size("GPU") else {"num_cpus": 1 + labeler.num_workers}
        _tell_if_too_small(num_actors, resources)
        with _checkpoints(output / "checkpoint"):
            # What goes through the model together are neighbours in the list
            parts = ray.data.read_parquet(str(output / "videos.parquet")).repartition(
                target_num_rows_per_block=shard_size
            )
            rows = parts.map_batches(
                VideoLabeler,
                fn_constructor_args=(model,),
                fn_constructor_kwargs=options,
                batch_size=None,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(size=num_actors),
                **resources,
            )
            rows.write_parquet(str(output / "rows"))
    return pyarrow.dataset.dataset(output / "rows", labeler.schema, format="parquet")


def _connect(num_actors: int, num_workers: int) -> None:
    import ray

    if ray.is_initialized():
        return
    try:
        ray.init("auto")
    except ConnectionError:
        if os.environ.get("RAY_ADDRESS"):  # it is asked for, and not there
            raise
        # CPUs are what Ray counts: all that are asked for, or it would wait for them
        needed = num_actors * (1 + num_workers) + _OTHER_CPUS
        ray.init(num_cpus=max(os.cpu_count() or 1, needed), include_dashboard=False)


def _tell_if_too_small(num_actors: int, resources: dict[str, Any]) -> None:
    """A cluster may grow, so that this is no error."""
    cpus = num_actors * resources.get("num_cpus", 0) + _OTHER_CPUS
    gpus = num_actors * resources.get("num_gpus", 0)
    if cpus > _size("CPU") or gpus > _size("GPU"):
        logger.warning(
            f"{num_actors} actors need {cpus:g} CPUs and {gpus:g} GPUs; the cluster has {_size('CPU'):g} and "
            f"{_size('GPU'):g}. Ray starts those that fit; if none does, it waits until the cluster has grown."
        )


def _size(resource: str) -> float:
    """How much of it the cluster has."""
    import ray

    return float(ray.cluster_resources().get(resource, 0))  # type: ignore[no-untyped-call]


@contextmanager
def _checkpoints(folder: Path) -> Iterator[None]:
    """What Ray does meanwhile it leaves out where it has been done."""
    from ray.data import DataContext
    from ray.data.checkpoint import CheckpointConfig

    context = DataContext.get_current()
    before = context.checkpoint_config
    context.checkpoint_config = CheckpointConfig(
        id_column="path", checkpoint_path=str(folder), delete_checkpoint_on_success=False
    )
    try:
        yield
    finally:
        context.checkpoint_config = before
