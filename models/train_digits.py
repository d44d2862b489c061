"""Trains and exports the two digits classifiers of models/digits.py. Not part of any test: run it to make them anew.

    pip install torch==2.13.0 scikit-learn onnx onnxruntime; python -m models.train_digits

Takes about six minutes on one core. The files are tracked, because another version of torch gives other weights.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from models import digits


class ConvNet(nn.Module):
    """Three 3x3 convolutions with batch normalisation, the last two at half the resolution; 24 thousand weights."""

    def __init__(self):
        super().__init__()
        widths = (1, 16, 32, 64)
        pairs = list(itertools.pairwise(widths))
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in pairs)
        self.normalisations = nn.ModuleList(nn.BatchNorm2d(b) for _, b in pairs)
        self.head = nn.Linear(widths[-1], 10)

    def forward(self, image):
        x = image
        for i, (convolution, normalisation) in enumerate(zip(self.convolutions, self.normalisations, strict=True)):
            x = torch.relu(normalisation(convolution(x)))
            if i == 0:
                x = functional.max_pool2d(x, 2)
        return self.head(x.mean(dim=(2, 3)))


class Block(nn.Module):
    """A transformer block, LayerNorm first, with its attention spelled out so that it exports as plain products."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.expand, self.contract = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)

    def forward(self, x):
        _, tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(-1, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = qkv[0], qkv[1], qkv[2]
        weights = torch.softmax(query @ key.transpose(-2, -1) / math.sqrt(self.qkv.in_features // self.heads), dim=-1)
        x = x + self.out((weights @ value).transpose(1, 2).reshape(-1, tokens, width))
        return x + self.contract(functional.gelu(self.expand(self.norm2(x))))


class VisionTransformer(nn.Module):
    """Patches of 2x2 pixels, 16 tokens and a class token, four blocks of width 64; 165 thousand weights."""

    def __init__(self, width: int = 64, heads: int = 4, depth: int = 4):
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, stride=2)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 17, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, image):
        tokens = self.patches(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(tokens.shape[0], -1, -1), tokens], dim=1) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


def moved(images: torch.Tensor) -> torch.Tensor:
    """All images moved by the same whole pixels, at most one in each direction, with a little noise."""
    down, right = (int(torch.randint(-1, 2, ())) for _ in range(2))
    shifted = functional.pad(images, (1, 1, 1, 1)).roll((down, right), (2, 3))[:, :, 1:-1, 1:-1]
    return shifted + 0.05 * torch.randn_like(shifted)


def warped(images: torch.Tensor) -> torch.Tensor:
    """Each image turned by up to 15 degrees, scaled by 15 %, moved by 1.2 pixels and slanted by 20 %, with noise."""
    count = len(images)

    def within(limit: float, *shape: int) -> torch.Tensor:
        return limit * (2 * torch.rand(count, *shape) - 1)

    angle, size, move, slant = torch.deg2rad(within(15)), 1 + within(0.15), within(0.3, 2), within(0.2)
    rows = [
        torch.stack([angle.cos() / size, -angle.sin() / size + slant, move[:, 0]], 1),
        torch.stack([angle.sin() / size, angle.cos() / size, move[:, 1]], 1),
    ]
    grid = functional.affine_grid(torch.stack(rows, 1), images.shape, align_corners=False)
    shown = functional.grid_sample(images, grid, align_corners=False)
    return shown + 0.08 * torch.randn_like(shown)


def train(model: nn.Module, epochs: int, augment: Callable[[torch.Tensor], torch.Tensor], warm: bool) -> nn.Module:
    """AdamW; every epoch sees every image once, augmented anew. The learning rate falls as a cosine, epoch by epoch, or
    step by step after it rose in the first tenth if `warm`."""
    images, labels = map(torch.from_numpy, digits.samples("calibration"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    batches = math.ceil(len(labels) / 64)
    if warm:
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, epochs * batches, pct_start=0.1)
    else:
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: (1 + math.cos(math.pi * (step // batches) / epochs)) / 2
        )
    for _ in range(epochs):
        model.train()
        for batch in torch.randperm(len(labels)).split(64):
            loss = functional.cross_entropy(model(augment(images[batch])), labels[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def export(model: nn.Module, path) -> None:
    """TorchScript export at opset 14: LayerNorm and GELU fall apart into elementwise nodes; batch norms are kept."""
    torch.onnx.export(
        model, (torch.zeros(1, 1, 8, 8),), str(path), dynamo=False, opset_version=14,
        training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False, input_names=[digits.INPUT],
        output_names=[digits.OUTPUT], dynamic_axes={digits.INPUT: {0: "N"}, digits.OUTPUT: {0: "N"}},
    )  # fmt: skip


def main() -> None:
    torch.set_num_threads(1)  # such small products only wait for a second thread
    for build, path, *how in (
        (ConvNet, digits.CNN, 120, moved, False),
        (VisionTransformer, digits.VIT, 400, warped, True),
    ):
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the older exporter is what is wanted here
            export(train(build(), *how), path)
        print(
            path.name, path.stat().st_size, {split: digits.accuracy(path, split) for split in ("tuning", "evaluation")}
        )


if __name__ == "__main__":
    main()
