"""Makes transformers' test mixins available, or says why they are not."""

import pytest
import torch

from . import upstream


try:
    FOLDER = upstream.fetch()
except upstream.UpstreamUnavailableError:
    # test_upstream.py, which needs none of them, tells why
    FOLDER = None
    collect_ignore = ["test_models.py", "test_processors.py"]


def pytest_configure(config):
    for mark in upstream.marks(FOLDER) if FOLDER else ():
        if mark != "slow":
            config.addinivalue_line("markers", f"{mark}: set by transformers' test mixins")


@pytest.fixture(autouse=True)
def _one_thread():
    """The models are too small to gain from a second one, and lose where processes share the cores."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)
