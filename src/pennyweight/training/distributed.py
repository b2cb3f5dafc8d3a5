"""The ranks of one data-parallel run: who they are, and the few sums they share. One process is the case of one rank.

Gradients are averaged by torch's DistributedDataParallel; what it leaves open is here.
"""

import atexit
import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pennyweight.errors import RecipeError


@dataclass(frozen=True, kw_only=True)
class StepLoss:
    """One step's loss after the ranks have met.

    Args:
        backward: what this rank differentiates; the ranks' mean gradient is then the gradient of `mean`.
        mean: sum of all ranks' losses over the count of all ranks' samples.
        stop: whether any rank was asked to stop; a tensor where reading it would wait for the device.
    """

    backward: Tensor
    mean: Tensor
    stop: bool | Tensor


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process's place in the run.

    Args:
        rank: number of this process, from 0.
        world_size: number of processes.
        device: where this process computes.
    """

    rank: int
    world_size: int
    device: torch.device

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model whose backward averages gradients over ranks; parameters stay the model's own.

        Buffers are not broadcast before each step, which would keep rank 0's running statistics and lose the others';
        see `reconcile_buffers_`.
        """
        if self.world_size == 1:
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)

    def reduce(self, losses: Tensor, stop: bool) -> StepLoss:
        """Divide the losses by the samples of all ranks, so that unequal shares agree with one process.

        Args:
            losses: one loss for each of this rank's samples.
            stop: whether this rank was asked to stop; all ranks learn it at the same step.
        """
        if self.world_size == 1:
            loss = losses.sum() / len(losses)
            return StepLoss(backward=loss, mean=loss.detach(), stop=stop)
        local = losses.detach().sum().double()
        totals = torch.stack([local, local.new_tensor(float(len(losses))), local.new_tensor(float(stop))])
        dist.all_reduce(totals)
        share = (self.world_size / totals[1]).to(losses.dtype)  # times W, for the gradients' mean over W ranks
        return StepLoss(backward=losses.sum() * share, mean=totals[0] / totals[1], stop=totals[2] > 0)

    @torch.no_grad()
    def reconcile_buffers_(self, model: nn.Module) -> None:
        """Make equal what the ranks' own samples made differ: running statistics and ranges.

        Floating-point buffers on which the ranks disagree become their mean, those named `*max` their maximum.
        """
        if self.world_size == 1:
            return
        for name, buffer in model.named_buffers():
            if not buffer.is_floating_point():
                continue
            bounds = torch.stack([buffer, -buffer])
            dist.all_reduce(bounds, dist.ReduceOp.MAX)
            if torch.equal(bounds[0], -bounds[1]):
                continue  # a mean of equal numbers may round to another one
            if name.endswith("max"):
                buffer.copy_(bounds[0])
            else:
                dist.all_reduce(buffer)
                buffer.div_(self.world_size)

    def any(self, condition: bool) -> bool:
        """Whether the condition holds on any rank; all ranks wait for the answer."""
        if self.world_size == 1:
            return condition
        flag = torch.tensor(float(condition), device=self.device)
        dist.all_reduce(flag)
        return bool(flag > 0)

    def equal(self, number: int) -> bool:
        """Whether all ranks bring the same number."""
        if self.world_size == 1:
            return True
        bounds = torch.tensor([number, -number], device=self.device)
        dist.all_reduce(bounds, dist.ReduceOp.MAX)
        return bool(bounds[0] == -bounds[1])


def join_ranks(device: torch.device | str | None) -> Ranks:
    """Find this process's place: among torchrun's processes if it started this one, else alone.

    The process group is made on the first call, gloo for a CPU and nccl for a GPU, unless the program made one itself;
    it stays until the program ends, because a second one under the same torchrun could meet the first one's keys.

    Args:
        device: None takes the process's GPU where there is one, else the CPU.

    Raises:
        RecipeError: no such device on this machine.
    """
    if device is None:
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise RecipeError(f"device {str(device)!r} cannot be used: {str(error).splitlines()[0]}") from error
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    if not dist.is_available():
        return Ranks(rank=0, world_size=1, device=device)
    if not dist.is_initialized() and "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(dist.destroy_process_group)
    if not dist.is_initialized():
        return Ranks(rank=0, world_size=1, device=device)
    return Ranks(rank=dist.get_rank(), world_size=dist.get_world_size(), device=device)
