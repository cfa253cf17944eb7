"""The mixins are there; if not, this is where it is said."""

import subprocess
import sys
import tarfile

import pytest
import transformers

from . import upstream


def test_the_mixins_are_available():
    try:
        folder = upstream.fetch()
    except upstream.UpstreamUnavailableError as error:
        if upstream.may_download():
            raise
        pytest.skip(str(error))
    assert (folder / "tests" / "test_modeling_common.py").is_file()
    assert "flash_attn_test" in upstream.marks(folder)


def test_a_failed_download_names_the_command(tmp_path, monkeypatch):
    monkeypatch.delenv(upstream.NO_DOWNLOAD, raising=False)
    monkeypatch.setattr(transformers, "__version__", "5.0.0.nowhere")
    monkeypatch.setattr(
        subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1, "", "No matching distribution")
    )
    with pytest.raises(upstream.UpstreamUnavailableError, match=r"pip download .*transformers==5\.0\.0\.nowhere"):
        upstream.fetch(tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_no_download_where_none_is_allowed(tmp_path, monkeypatch):
    monkeypatch.setenv(upstream.NO_DOWNLOAD, "1")
    monkeypatch.setattr(subprocess, "run", None)
    with pytest.raises(upstream.UpstreamUnavailableError, match=upstream.NO_DOWNLOAD):
        upstream.fetch(tmp_path)


def test_only_the_tests_are_unpacked_and_only_once(tmp_path, monkeypatch):
    monkeypatch.delenv(upstream.NO_DOWNLOAD, raising=False)
    name = f"transformers-{transformers.__version__}"
    source = tmp_path / name
    for path in ("tests/test_a.py", "src/b.py"):
        (source / path).parent.mkdir(parents=True)
        (source / path).write_text("")
    calls = []

    def download(command, **kwargs):
        calls.append(command)
        with tarfile.open(f"{command[command.index('--dest') + 1]}/{name}.tar.gz", "w:gz") as tar:
            tar.add(source, name)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", download)
    folder = upstream.fetch(tmp_path / "cache")
    assert upstream.fetch(tmp_path / "cache") == folder
    assert len(calls) == 1
    assert (folder / "tests" / "test_a.py").is_file()
    assert not (folder / "src").exists()


def test_loading_changes_nothing_for_other_tests():
    """The first mixin looks for a folder beside its own, and two would execute transformers anew."""
    if not (upstream.CACHE / transformers.__version__).is_dir():
        pytest.skip("the mixins are not available")
    path, finders = list(sys.path), list(sys.meta_path)
    direct_import, installed = transformers.utils.direct_transformers_import, sys.modules["transformers"]
    upstream.load.__wrapped__()
    assert (sys.path, sys.meta_path) == (path, finders)
    assert transformers.utils.direct_transformers_import is direct_import
    assert sys.modules["transformers"] is installed
    assert "tests" not in sys.modules
