"""Training on several processes: each rank learns from its share of every batch, and all hold the same weights.

    g = sum_r (n_r / n) g_r,   the gradient of a mean over the n samples of a batch of which rank r has n_r

so that a training is what it is on one process, but for rounding and for what looks at a whole batch: statistics of
batch norms are those of a share while training, and their running ones are averaged over ranks after each epoch. A loss
that is no mean over samples (labels that are ignored) weighs shares by their samples.

Li et al. 2020, "PyTorch Distributed: Experiences on Accelerating Data Parallel Training" (arXiv:2006.15704) wrap the
model for this; here gradients are averaged by hand, so that names, hooks and training steps see the model itself.
"""

import atexit
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from penjing.errors import PenjingError, WorkloadError
from penjing.training.checkpoint import tensors_of
from penjing.training.norms import batch_norms
from penjing.training.randomness import isolated_randomness
from penjing.workload import Batch, tree

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Team:
    """The processes that train one model together, as one of them sees it; by itself it is a team of one."""

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls) -> "Team":
        """The team of the process group; `torchrun` makes one where there is none yet; else this process alone."""
        if not dist.is_available():
            return cls()
        if not dist.is_initialized() and dist.is_torchelastic_launched():
            with_cuda = torch.cuda.is_available() and dist.is_nccl_available()  # a model may be on the CPU all the same
            dist.init_process_group("cpu:gloo,cuda:nccl" if with_cuda else "gloo")
            atexit.register(dist.destroy_process_group)
        return cls(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else cls()

    @property
    def leads(self) -> bool:
        """Whether this rank evaluates, writes files and shows progress."""
        return self.rank == 0

    def ask(self, question: Callable[[], Answer]) -> Answer:
        """What the leading rank answers, on every rank; an error there is one everywhere."""
        if self.size == 1:
            return question()
        answer: list[Answer | PenjingError | None] = [None]
        if self.leads:
            try:
                answer = [question()]
            except PenjingError as problem:
                answer = [problem]
        dist.broadcast_object_list(answer)
        if isinstance(answer[0], PenjingError):
            raise answer[0]
        return answer[0]  # type: ignore[return-value]

    def wait(self) -> None:
        """Go on when all ranks are here."""
        if self.size > 1:
            dist.barrier()

    def share(self, batch: Batch) -> tuple[Batch | None, float]:
        """The samples of a batch that this rank learns from, None if there are too few, and which part they are."""
        if self.size == 1:
            return batch, 1.0
        mine = range(self.rank, batch.size, self.size)
        parts = tree.take((batch.args, dict(batch.kwargs), batch.target, batch.raw), mine, batch.size)
        return Batch(*parts) if mine else None, len(mine) / batch.size

    @contextmanager
    def own_randomness(self, seed: int, step: int) -> Iterator[None]:
        """Draw other numbers than the other ranks inside (dropout), and leave the generators that order the data."""
        if self.size == 1:
            yield
            return
        with isolated_randomness(((seed * 1_000_003 + step) * self.size + self.rank) % 2**63):
            yield

    def average_gradients(self, optimizer: Optimizer, loss: float, part: float) -> float:
        """Make the gradients, and the loss, those of the whole batch; a parameter that no rank reached keeps none."""
        if self.size == 1:
            return loss
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        reached = torch.tensor([float(p.grad is not None) for p in parameters], device=grads[0].device)
        scalars = torch.cat([reached, reached.new_tensor([loss * part])])
        flat = torch.cat([grad.flatten() * part for grad in grads])
        dist.all_reduce(flat)
        dist.all_reduce(scalars)
        sizes = [p.numel() for p in parameters]
        for p, grad, anywhere in zip(parameters, flat.split(sizes), scalars[:-1], strict=True):
            p.grad = grad.view_as(p) if anywhere else None
        return float(scalars[-1])

    def align(self, model: nn.Module) -> None:
        """Give all ranks the leading one's parameters and buffers. Raises WorkloadError where their shapes differ."""
        if self.size == 1:
            return
        shapes: list[Any] = [None] * self.size
        dist.all_gather_object(shapes, {name: tuple(tensor.shape) for name, tensor in tensors_of(model).items()})
        for rank, found in enumerate(shapes):
            for name in (name for name in {**shapes[0], **found} if shapes[0].get(name) != found.get(name)):
                raise WorkloadError(
                    f"{name} has shape {found.get(name)} on rank {rank} and {shapes[0].get(name)} on rank 0; make the "
                    "model and its cuts alike on all ranks (where widths are measured, cut before and pass the model)"
                )
        self.spread(tensors_of(model).values())

    def spread(self, tensors: Iterable[Tensor]) -> None:
        """Give all ranks the values that the leading one has, in place."""
        if self.size == 1:
            return
        for tensor in tensors:
            values = tensor.detach().contiguous()
            dist.broadcast(values, src=0)
            tensor.detach().copy_(values)

    def average_norms(self, model: nn.Module) -> None:
        """Average the running statistics of batch norms over the ranks, and take other buffers from the leading one."""
        if self.size == 1:
            return
        averaged = {id(s) for norm in batch_norms(model) for s in (norm.running_mean, norm.running_var)}
        for buffer in model.buffers():
            if id(buffer) in averaged:
                dist.all_reduce(buffer)
                buffer.div_(self.size)
        self.spread(buffer for buffer in model.buffers() if id(buffer) not in averaged)
