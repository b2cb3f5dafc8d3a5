"""The bar on a terminal; the plain lines are tested with the loop."""

import io
import sys

import pytest

from pennyweight.training.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_that_is_taken_away_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with Progress(steps=10, start=4, shown=True) as progress:
        for done in range(5, 11):
            progress.update(done, 0.25, 0.1, 1000.0)
        assert progress._bar.tasks[0].completed == 10
    text = terminal.getvalue()
    assert "step 10/10" in text
    assert "loss 0.2500  lr 0.1  1000 images/s" in text


def test_nothing_is_shown_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress(steps=1, start=0, shown=False) as progress:
        progress.update(1, 0.25, 0.1, 1000.0)
    assert terminal.getvalue() == ""
