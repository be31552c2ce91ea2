"""A narrow VGG-19 that imitates the features of a wide one.

The student has convolutions of its own, from a fresh start. At every layer a linear read-out maps
its features to the teacher's (FitNets, arXiv 1412.6550, with a 1 x 1 convolution as regressor). The
loss of a layer, with Y the read-out of the student's rectified features and T the teacher's, is

    sum (Y - T)^2 / sum (T - mean T)^2  +  g |Y Y' - T T'|^2 / |T T'|^2

The first is the share of variance that is not explained, the second the relative error of the Gram
matrix. Layers that no loss of style transfer reads are imitated too. What is minimised is the sum
of the logarithms: the small errors of the first layers count as much as the large ones of the last.

The blocks join one after the other, and those before them learn on. If all begin at once, the
errors of the deep ones, whose inputs still change, drown what the first ones should learn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nstray.engine.network.fidelity import positions_by_filter, regression
from nstray.engine.network.normalise import dead_filters
from nstray.engine.network.random_weights import random_weights
from nstray.engine.network.recipe import Recipe
from nstray.engine.network.vgg import VGGFeatures, block
from nstray.engine.network.weights import RGB_MEAN, RGB_STD, VGGWeights, layers_up_to
from nstray.engine.optim.muon import Muon
from nstray.engine.settings import BLOCKS, Pooling
from nstray.errors import WeightsError

# Positions at the border of a crop are no part of the loss: student and teacher may surround it by
# different things.
BORDER = 1
FLOOR = 0.02  # of a layer's loss: below it there is little to gain


class Student(nn.Module):
    """The convolutions that are trained, and a read-out of each for the teacher's filters."""

    mean: Tensor
    std: Tensor

    def __init__(self, start: VGGWeights, filters: Mapping[str, int], pooling: Pooling) -> None:
        super().__init__()
        self.convs: dict[str, nn.Conv2d] = {}
        self.readouts: dict[str, nn.Linear] = {}
        for layer in start.layers:
            weight = start.tensors[f"{layer}.weight"]
            conv = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
            conv.load_state_dict({"weight": weight, "bias": start.tensors[f"{layer}.bias"]})
            self.convs[layer] = conv
            self.readouts[layer] = nn.Linear(weight.shape[0], filters[layer])
            self.add_module(layer, conv)
            self.add_module(f"{layer}_readout", self.readouts[layer])
        self.pool = F.max_pool2d if pooling == "max" else F.avg_pool2d
        self.register_buffer("mean", RGB_MEAN.view(1, 3, 1, 1).clone())
        self.register_buffer("std", RGB_STD.view(1, 3, 1, 1).clone())
        self.to(memory_format=torch.channels_last)

    def forward(
        self,
        x: Tensor,
        blocks: int = len(BLOCKS),
        before: Callable[[str, Tensor], None] | None = None,
    ) -> dict[str, Tensor]:
        """Rectified activations of the layers of the first blocks for x (B, 3, H, W) over 0..1.

        Args:
            before: called with each layer and what its convolution is given.
        """
        x = ((x - self.mean) / self.std).to(memory_format=torch.channels_last)
        out: dict[str, Tensor] = {}
        level = 1
        for layer, conv in self.convs.items():
            if block(layer) > blocks:
                break
            if block(layer) != level:
                x, level = self.pool(x, 2), level + 1
            if before is not None:
                before(layer, x)
            out[layer] = x = F.relu(conv(x))
        return out


class Distillation:
    """The training of one student.

    Args:
        teacher: any VGG-19. What it lacks of the recipe's layers is left out.
        pooling: of the teacher, and then of the student.
        sample: crops (B, 3, side, side) over 0..1, on which the read-outs begin and the teacher's
            variances are measured.

    Raises WeightsError if the teacher has none of the recipe's layers.
    """

    def __init__(
        self,
        teacher: VGGWeights,
        recipe: Recipe,
        pooling: Pooling,
        sample: Tensor,
        device: str | torch.device = "cpu",
    ) -> None:
        self.recipe, self.pooling = recipe, pooling
        self.device = torch.device(device)
        self.taps = tuple(layer for layer in recipe.layers if layer in teacher.layers)
        if not self.taps:
            raise WeightsError(
                f"weights {teacher.source} hold {teacher.layers[0]} to {teacher.layers[-1]}, "
                f"and none of {', '.join(recipe.layers)}"
            )
        self.layers = layers_up_to(self.taps)
        self.teacher = VGGFeatures(teacher.up_to(self.taps), self.layers, pooling).to(self.device)
        self.alive: dict[str, Tensor] = {}
        self.variance: dict[str, float] = {}
        start = random_weights(self.layers, seed=recipe.seed, widths=recipe.widths)
        self._sample = sample.to(self.device)
        self._measure()
        filters = {layer: len(alive) for layer, alive in self.alive.items()}
        self.student = Student(start, filters, pooling).to(self.device)
        self.blocks = 0
        parameters = list(self.student.parameters())
        filters_of = [p for p in parameters if p.ndim == 4]
        others = [p for p in parameters if p.ndim != 4]
        rate = recipe.learning_rate
        self.optimizers: list[torch.optim.Optimizer] = [
            Muon(filters_of, rate),
            torch.optim.Adam(others, lr=rate, betas=(0.9, 0.99)),
        ]
        self.step_number = 0

    @torch.no_grad()
    def _measure(self) -> None:
        sums: dict[str, Tensor] = {}
        squares: dict[str, Tensor] = {}
        for layer, t in self._targets(self._sample, every=True).items():
            sums[layer] = t.double().mean((0, 2, 3))
            squares[layer] = t.double().square().mean((0, 2, 3))
        for layer, mean in sums.items():
            dead = set(dead_filters(mean))
            alive = [i for i in range(len(mean)) if i not in dead]
            self.alive[layer] = torch.tensor(alive, device=self.device)
            self.variance[layer] = float((squares[layer] - mean.square())[self.alive[layer]].sum())

    @torch.no_grad()
    def _join(self) -> None:
        """Let the next block learn too.

        Its filters are scaled to its inputs as they are by now, as in `random_weights`, and its
        read-outs begin with a regression.
        """
        self.blocks += 1

        def scale(layer: str, x: Tensor) -> None:
            if block(layer) == self.blocks:
                conv = self.student.convs[layer]
                std, mean = torch.std_mean(conv(x), (0, 2, 3))
                std = std.clamp_min(1e-6)
                conv.weight.div_(std.view(-1, 1, 1, 1))
                assert conv.bias is not None
                conv.bias.sub_(mean).div_(std)

        targets = self._targets(self._sample)
        for layer, out in self.student(self._sample, self.blocks, scale).items():
            if block(layer) == self.blocks:
                x, y = positions_by_filter(out), positions_by_filter(targets[layer])
                matrix, offset = regression(x, y)
                self.student.readouts[layer].weight.copy_(matrix)
                self.student.readouts[layer].bias.copy_(offset)

    @torch.no_grad()
    def _targets(self, x: Tensor, *, every: bool = False) -> dict[str, Tensor]:
        layers = [n for n in self.layers if every or block(n) <= self.blocks]
        found: dict[str, Tensor] = self.teacher(x.to(self.device), layers)
        if every:
            return found
        return {
            k: t if len(self.alive[k]) == t.shape[1] else t[:, self.alive[k]]
            for k, t in found.items()
        }

    def rate(self) -> float:
        """The learning rate of the next step."""
        n, total = self.step_number, self.recipe.steps
        warm = max(1, total // 100)
        if n < warm:
            return self.recipe.learning_rate * (n + 1) / warm
        share = min(1.0, (n - warm) / max(1, total - warm))
        return self.recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * share))

    def step(self, x: Tensor) -> dict[str, float]:
        """One step on crops (B, 3, H, W) over 0..1; the unexplained variance by layer."""
        blocks = sum(self.step_number >= share * self.recipe.steps for share in self.recipe.joins)
        while self.blocks < min(blocks, block(self.layers[-1])):
            self._join()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = self.rate()
        targets = self._targets(x)
        features = self.student(x.to(self.device), self.blocks)
        total = torch.zeros((), device=self.device)
        losses: dict[str, Tensor] = {}
        for layer, f in features.items():
            t = _inside(targets[layer]).permute(0, 2, 3, 1)
            y = self.student.readouts[layer](_inside(f).permute(0, 2, 3, 1))
            count = t.shape[0] * t.shape[1] * t.shape[2]
            losses[layer] = F.mse_loss(y, t, reduction="sum") / (count * self.variance[layer])
            loss = losses[layer]
            if layer in self.taps and self.recipe.gram:
                loss = loss + self.recipe.gram * _gram_error(y, t)
            share = 1.0 if layer in self.taps else self.recipe.auxiliary
            total = total + share * torch.log(loss + FLOOR)
        total.backward()  # type: ignore[no-untyped-call]
        for optimizer in self.optimizers:
            optimizer.step()
        self.step_number += 1
        return {layer: float(losses[layer].detach()) for layer in self.taps if layer in losses}

    def weights(self) -> VGGWeights:
        """The student as it is now, in the input convention ``rgb``; its id says nothing yet."""
        tensors = {}
        for layer, conv in self.student.convs.items():
            for kind, value in conv.named_parameters():
                tensors[f"{layer}.{kind}"] = value.detach().float().cpu().contiguous()
        return VGGWeights(tensors, "", "the student", "rgb", "zero", self.pooling)

    def state(self) -> dict[str, Any]:
        """Everything that a later process needs to go on, for `torch.save`."""
        return {
            "step": self.step_number,
            "blocks": self.blocks,
            "student": self.student.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "alive": self.alive,
            "variance": self.variance,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.alive = {k: v.to(self.device) for k, v in state["alive"].items()}
        self.variance = dict(state["variance"])
        self.student.load_state_dict(state["student"])
        for optimizer, stored in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(stored)
        self.step_number, self.blocks = state["step"], state["blocks"]


def draw_crops(pictures: Sequence[Tensor], recipe: Recipe, step: int) -> Tensor:
    """The crops of one step (B, 3, side, side) over 0..1; the same for the same step.

    Each is a square of 1 to 2 times the side, scaled to it, of a picture drawn at random, and half
    of them are mirrored.

    Args:
        pictures: (3, H, W) uint8, none smaller than `recipe.side`.
    """
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
    side = recipe.side
    draw = torch.rand(recipe.crops, 6, generator=generator)
    crops = []
    for which, zoom, top, left, mirrored, noisy in draw.tolist():
        picture = pictures[int(which * len(pictures))]
        height, width = picture.shape[1:]
        taken = min(height, width, round(side * 2**zoom))
        y, x = int(top * (height - taken + 1)), int(left * (width - taken + 1))
        crop = picture[:, y : y + taken, x : x + taken].float() / 255
        if taken != side:
            crop = F.interpolate(
                crop[None], size=(side, side), mode="bilinear", antialias=True, align_corners=False
            )[0]
        if mirrored < 0.5:
            crop = crop.flip(2)
        if noisy < recipe.noisy:
            share = noisy / recipe.noisy
            crop = torch.lerp(crop, torch.rand(crop.shape, generator=generator), share)
        crops.append(crop.clamp(0, 1))
    return torch.stack(crops)


def _inside(features: Tensor) -> Tensor:
    return features[..., BORDER:-BORDER, BORDER:-BORDER]


def _gram_error(y: Tensor, t: Tensor) -> Tensor:
    """|Y Y' - T T'|^2 / |T T'|^2 over a batch (B, H, W, N)."""
    grams = [torch.einsum("bpn,bpm->bnm", z, z) for z in (y.flatten(1, 2), t.flatten(1, 2))]
    return (grams[0] - grams[1]).square().sum() / grams[1].square().sum()
