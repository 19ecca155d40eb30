"""Sudoku: bundled masked diffusion models of solved grids, of side 4 and 9, small enough to be wrong.

    h   = table(x_t)                                                     one vector a cell; no positions
    h   = h + out([row(h), column(h), box(h)])                           attention inside each row, column and box
    h   = h + down(gelu(up(norm(h))))                                    a few such blocks
    p(x_0^i | x_t) = softmax(head(norm(h_i))) over the digits

A cell looks at the cells that it must differ from, as in Palm, Paquet and Winther (2018), arXiv:1711.08028.
docs/sudoku.md tells how the weights were made and how often they are right.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isqrt
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from iterref.models.base import Masked
from iterref.noise import Noise, absorbing

WEIGHTS = Path(__file__).parent / "weights"
FORMAT = "iterref-sudoku-1"
KINDS = 3  # of units: rows, columns, boxes, a head each


@dataclass(frozen=True)
class GridOptions:
    """Sizes of the network: grids of side `side`, and `blocks` of a `width` that is a multiple of 3."""

    side: int
    width: int
    blocks: int

    def __post_init__(self) -> None:
        if isqrt(self.side) ** 2 != self.side or self.side < 4 or self.width % KINDS or self.blocks < 1:
            raise ValueError(f"a network of grids needs a square side, a width in threes and a block, got {self}")


class Block(nn.Module):
    """One head for each kind of unit, then a two-layer perceptron."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x: Tensor, order: Tensor, back: Tensor) -> Tensor:
        """(R, L, width); `order` (3, L) has the cells unit after unit, and `back` is its inverse."""
        rows, length, width = x.shape
        side, kind = isqrt(length), torch.arange(KINDS, device=x.device)[:, None]
        mixed = self.qkv(self.norm1(x)).view(rows, length, KINDS, 3 * width // KINDS)
        query, key, value = mixed[:, order, kind].view(rows, KINDS, side, side, -1).chunk(3, dim=-1)
        score = query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2)
        seen = (torch.softmax(score, dim=-1) @ value).flatten(2, 3)
        x = x + self.out(seen[:, kind, back].transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class GridNetwork(nn.Module):
    """The network: noisy grids in, logits of the digits out."""

    order: Tensor
    back: Tensor

    def __init__(self, options: GridOptions) -> None:
        super().__init__()
        self.options = options
        self.table = nn.Embedding(options.side + 1, options.width)
        self.blocks = nn.ModuleList(Block(options.width) for _ in range(options.blocks))
        self.norm = nn.LayerNorm(options.width)
        self.head = nn.Linear(options.width, options.side)
        box, cells = isqrt(options.side), torch.arange(options.side**2)
        boxes = cells.view(box, box, box, box).transpose(1, 2).flatten()
        order = torch.stack([cells, cells.view(options.side, -1).T.flatten(), boxes])  # by rows, columns and boxes
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("back", order.argsort(1), persistent=False)

    def forward(self, x_t: Tensor, where: Tensor) -> Tensor:
        """Tokens (R, L) long as logits (M, side) of the True cells of where (R, L), row-major."""
        x = self.table(x_t)
        for block in self.blocks:
            x = block(x, self.order, self.back)
        return self.head(self.norm(x[where]))


class SudokuDenoiser(Masked):
    """The network as a `Denoiser` of grids: tokens 0 .. side - 1 are the digits less one, the last one is the mask. t
    is not looked at: the number of masks tells it. A row's answer depends on its own tokens only."""

    time_independent = True
    impossible = torch.zeros(0, dtype=torch.long)

    def __init__(self, network: GridNetwork, noise: Noise) -> None:
        self.network, self.noise = network, noise

    @property
    def side(self) -> int:
        return self.network.options.side

    @torch.no_grad()
    def logits(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        """As `Masked.logits`, of grids (R, L). Raises `ValueError` for those of another size."""
        if x_t.shape[1] != self.side**2:
            raise ValueError(f"x_t has {x_t.shape[1]} cells: this model knows grids of {self.side} x {self.side}")
        busy = where.any(1)  # rows without an open cell are not worth a pass
        return F.pad(self.network(x_t[busy], where[busy]), (0, 1))  # with a place for the mask, which is ruled out


def load(side: int = 9, file: str | Path | None = None, device: torch.device | str = "cpu") -> SudokuDenoiser:
    """The bundled model of grids of a side, 4 or 9, or that of a `file` that benchmarks/models/train_sudoku.py wrote.
    Raises `FileNotFoundError` where there is none, and `ValueError` for another format or another side."""
    path = WEIGHTS / f"sudoku{side}.safetensors" if file is None else Path(file)
    if file is None and not path.is_file():
        raise FileNotFoundError(f"there is no bundled model of grids of side {side}: there are those of side 4 and 9")
    options = sizes(path)
    if options.side != side:
        raise ValueError(f"{path.name} is a model of grids of side {options.side}, not {side}: give another")
    network = GridNetwork(options)
    network.load_state_dict({name: weight.float() for name, weight in load_file(path).items()})
    return SudokuDenoiser(network.to(device).eval().requires_grad_(False), absorbing(side + 1))


def sizes(path: Path) -> GridOptions:
    """The sizes of the network in a file. Raises as `load` does."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}: give one that benchmarks/models/train_sudoku.py wrote")
    with safe_open(path, "pt") as opened:
        about = opened.metadata() or {}
    if about.get("format") != FORMAT:
        raise ValueError(f"{path.name} is no {FORMAT} file: give one that benchmarks/models/train_sudoku.py wrote")
    return GridOptions(int(about["side"]), int(about["width"]), int(about["blocks"]))


def save(weights: Mapping[str, Tensor], options: GridOptions, path: Path) -> None:
    """Writes the weights of a network in float16, with its sizes, where `load` reads them."""
    halves = {name: weight.half().contiguous() for name, weight in weights.items()}
    sizes = {name: str(value) for name, value in asdict(options).items()}
    save_file(halves, path, metadata={"format": FORMAT, **sizes})
