"""Shared test set-up: shapes in signatures are checked (jaxtyping + beartype), threads are pinned, real data is found or skipped."""

import os
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

# The shapes written in signatures are promises; the tests hold every call to them.
_hook = install_import_hook("pennyweight", "beartype.beartype")

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of the real data sets; a test that needs it skips, with the reason, where it is not laid out."""
    root = os.environ.get("PENNYWEIGHT_DATA")
    if not root or not Path(root).is_dir():
        pytest.skip("real data not laid out: set PENNYWEIGHT_DATA to the folder that holds it")
    return Path(root)
