"""The solver of GPTQ: columns of a weight rounded one after another, each error made up for by the columns to come."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pennyweight.errors import NumericsError
from pennyweight.methods.reconstruction.hessian import input_hessians
from pennyweight.methods.reconstruction.samples import UnitSamples
from pennyweight.methods.reconstruction.solver import FitRecord, output_errors
from pennyweight.methods.reconstruction.unit import Unit
from pennyweight.nn.gemm import GemmModule
from pennyweight.nn.slots.integer import IntegerWeight
from pennyweight.numerics.affine import AffineParameters, dequantize, expand, quantize
from pennyweight.numerics.random import Key


@dataclass(frozen=True)
class Grid:
    """What each entry of a flattened weight may be rounded to: scale times an integer from low to high; float64."""

    scale: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, affine: AffineParameters, weight: Tensor) -> "Grid":
        """The grid of a weight's codes minus zero point."""
        scale, zero_point = (
            expand(parameter, weight, affine.granularity).expand_as(weight).flatten(1).double()
            for parameter in (affine.scale, affine.zero_point)
        )
        return cls(scale, affine.format.min - zero_point, affine.format.max - zero_point)

    def __getitem__(self, entries: tuple[slice | Tensor, slice | Tensor]) -> "Grid":
        """The grid of some rows and columns."""
        return Grid(self.scale[entries], self.low[entries], self.high[entries])


@dataclass(frozen=True, kw_only=True)
class GPTQSolver:
    """Round weights by second-order compensation on what the layers multiply them with.

    Args:
        damping: share of the Hessian's mean diagonal that is added to its diagonal.
        act_order: take columns in falling order of the Hessian's diagonal, else as they come.
        block_size: columns after which the rest of the weight is updated at once; decides speed, not the result.
        keep_best: go back to the start where the unit's error has not fallen.
        sweep: False gathers Hessians and leaves the weights, for a rehearsal.
    """

    damping: float = 0.01
    act_order: bool = False
    block_size: int = 128
    keep_best: bool = True
    sweep: bool = True

    def fit(self, unit: Unit, samples: UnitSamples, heldout: UnitSamples | None, key: Key) -> FitRecord:
        """Round the layers in order, each on what it receives behind the ones before; nothing is drawn from the key."""
        before = output_errors(unit, samples)
        before_heldout = None if heldout is None else output_errors(unit, heldout)
        start = {name: _nearest(layer) for name, layer in unit.layers.items()}
        for layer in unit.layers.values():
            hessians = input_hessians(unit, layer, samples)
            if self.sweep:
                self._round_(layer, hessians)
        after = output_errors(unit, samples)
        after_heldout = None if heldout is None else output_errors(unit, heldout)
        better = (after_heldout or after).mse < (before_heldout or before).mse
        back = not self.sweep or (self.keep_best and not better)
        if back:
            for name, layer in unit.layers.items():
                _set_(layer, start[name])
            after, after_heldout = before, before_heldout
        return FitRecord(
            mse_before=before.mse,
            mse_after=after.mse,
            sqnr_before_db=before.sqnr_db,
            sqnr_after_db=after.sqnr_db,
            heldout_before=None if before_heldout is None else before_heldout.mse,
            heldout_after=None if after_heldout is None else after_heldout.mse,
            kept_start=back,
        )

    def _round_(self, layer: GemmModule, hessians: Tensor) -> None:
        content = layer.slots.weight.quantizer
        assert isinstance(content, IntegerWeight)
        weight = layer.weight.detach().flatten(1).double()
        grid = Grid.of(content.affine, layer.weight.detach())
        codes = torch.empty_like(weight)
        rows_of = torch.arange(len(weight), device=weight.device).reshape(len(hessians), -1)
        for hessian, rows in zip(hessians, rows_of, strict=True):
            codes[rows] = gptq_codes(
                weight[rows],
                hessian,
                grid[rows, slice(None)],
                damping=self.damping,
                act_order=self.act_order,
                block_size=self.block_size,
            )
        zero_point = expand(content.zero_point, layer.weight, content.granularity)
        _set_(layer, dequantize(codes.float().reshape(layer.weight.shape) + zero_point, content.affine))


def gptq_codes(
    weight: Tensor, hessian: Tensor, grid: Grid, *, damping: float, act_order: bool = False, block_size: int = 128
) -> Tensor:
    """Codes minus zero point that make (W - codes * scale) H (W - codes * scale)^T small, row by row.

    A column the inputs never reach is rounded to nearest: its Hessian tells nothing, and no other column depends on it.

    Args:
        weight: (rows, columns) float64.
        hessian: (columns, columns) float64, positive semidefinite.
        grid: for each entry of the weight.

    Raises:
        NumericsError: the damped Hessian is not positive definite.

    Source: arXiv 2210.17323, algorithm 1.
    """
    order = torch.argsort(hessian.diagonal(), descending=True, stable=True) if act_order else slice(None)
    weight, grid = weight[:, order].clone(), grid[slice(None), order]
    factor = inverse_factor(hessian[order][:, order], damping)
    codes = torch.empty_like(weight)
    columns = weight.shape[1]
    for begin in range(0, columns, block_size):
        end = min(begin + block_size, columns)
        errors = torch.empty_like(weight[:, begin:end])
        for column in range(begin, end):
            scale = grid.scale[:, column]
            code = torch.round(weight[:, column] / scale)
            code = torch.minimum(torch.maximum(code, grid.low[:, column]), grid.high[:, column])
            error = (weight[:, column] - code * scale) / factor[column, column]
            weight[:, column + 1 : end] -= torch.outer(error, factor[column, column + 1 : end])
            codes[:, column], errors[:, column - begin] = code, error
        weight[:, end:] -= errors @ factor[begin:end, end:]
    if isinstance(order, Tensor):
        codes = codes[:, torch.argsort(order)]
    return codes


def inverse_factor(hessian: Tensor, damping: float) -> Tensor:
    """The upper triangular U with U^T U = (H + damping * mean diagonal * I)^-1.

    Raises:
        NumericsError: what is to be inverted is not positive definite.
    """
    diagonal = hessian.diagonal()
    dead = diagonal == 0
    # The mean over live columns only, so that dead ones change nothing for the others.
    mean = diagonal.new_ones(()) if bool(dead.all()) else diagonal[~dead].mean()
    damped = hessian + torch.diag(torch.where(dead, mean, damping * mean))
    lower, failed = torch.linalg.cholesky_ex(damped)
    if not failed:
        upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
    if failed:
        raise NumericsError(
            f"the Hessian of {len(hessian)} columns cannot be factored with damping={damping}: raise it, or give more "
            f"samples"
        )
    return upper


def _nearest(layer: GemmModule) -> Tensor:
    """The weight's nearest values on its grid."""
    content = layer.slots.weight.quantizer
    assert isinstance(content, IntegerWeight)
    return dequantize(quantize(layer.weight.detach(), content.affine), content.affine)


@torch.no_grad()
def _set_(layer: GemmModule, values: Tensor) -> None:
    layer.weight.copy_(values)
