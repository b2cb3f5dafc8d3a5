"""Modes for a while, put back one by one: training or evaluation of modules, gradients of parameters."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Put all modules in training or evaluation mode; on leaving each gets back the mode it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def only_learning(learned: Iterable[nn.Parameter], parameters: Iterable[nn.Parameter] = ()) -> Iterator[None]:
    """Let some parameters require gradients, frozen ones too, and no others; on leaving each is as it was."""
    chosen = {id(parameter): parameter for parameter in learned}
    every = list({id(parameter): parameter for parameter in (*chosen.values(), *parameters)}.values())
    before = [parameter.requires_grad for parameter in every]
    try:
        for parameter in every:
            parameter.requires_grad_(id(parameter) in chosen)
        yield
    finally:
        for parameter, had in zip(every, before, strict=True):
            parameter.requires_grad_(had)
