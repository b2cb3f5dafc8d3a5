"""Shared test set-up: types and shapes of signatures are checked, threads pinned, real data found or skipped."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from jaxtyping import config, install_import_hook

# The shapes written in signatures are promises; the tests hold every call to them.
_hook = install_import_hook("pennyweight", "type_checker.checked")

torch.set_num_threads(1)

# Shells start background jobs with Ctrl-C ignored, which children would inherit: the tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of the real data sets; a test that needs it skips, with the reason, where it is not laid out."""
    root = os.environ.get("PENNYWEIGHT_DATA")
    if not root or not Path(root).is_dir():
        pytest.skip("real data not laid out: set PENNYWEIGHT_DATA to the folder that holds it")
    return Path(root)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Types are not checked within this test: it passes what a user without a type checker might."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)
