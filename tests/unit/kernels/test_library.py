"""The C++ library: its paths, their self-tests, and the errors of a missing or foreign file."""

from pathlib import Path

import pytest

from pennyweight.errors import KernelError
from pennyweight.kernels import library


def test_portable_path_is_last_and_always_supported() -> None:
    paths = library.paths()
    assert paths[-1].name == "portable"
    assert paths[-1].supported
    assert [path.index for path in paths] == list(range(len(paths)))


@pytest.mark.parametrize("path", [path for path in library.paths() if path.supported], ids=lambda path: path.name)
def test_self_test_passes(path: library.CompiledPath) -> None:
    assert library.self_test(path) is None


@pytest.mark.parametrize("content", [None, b"not a library"])
def test_errors_say_how_to_build(content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "libpennyweight_cpu.so"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setattr(library, "LIBRARY_FILE", file)
    with pytest.raises(KernelError, match=r"pip install -e \."):
        library.library.__wrapped__()
