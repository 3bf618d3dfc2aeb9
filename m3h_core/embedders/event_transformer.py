"""The transformer that reads events at their times; see sequence.py for what it is trained to do.

Legend: S signals, B samples of a batch, L events of the longest of them, D width.
"""

from __future__ import annotations

from typing import Any

# Periods of the clock that a token carries, in hours.
_PERIODS = (2.0, 8.0, 24.0, 72.0)
_LAYERS = 2
HEADS = 4


def build_network(n_signals: int, width: int) -> Any:
    """The transformer; made in a function, so that importing this module does not import torch."""
    import torch
    from torch import Tensor, nn

    class EventTransformer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.signal = nn.Embedding(n_signals, width)
            # A value moves a token along a direction of its signal's own.
            self.direction = nn.Embedding(n_signals, width)
            self.curve = nn.Sequential(nn.Linear(1, width), nn.GELU(), nn.Linear(width, width))
            self.hidden = nn.Parameter(torch.zeros(width))
            self.clock = nn.Linear(1 + 2 * len(_PERIODS), width)
            layer = nn.TransformerEncoderLayer(
                width,
                HEADS,
                2 * width,
                dropout=0.1,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            self.layers = nn.TransformerEncoder(
                layer, _LAYERS, norm=nn.LayerNorm(width), enable_nested_tensor=False
            )
            self.answer = nn.Embedding(n_signals, width)
            self.offset = nn.Embedding(n_signals, 1)
            nn.init.normal_(self.signal.weight, std=0.5)
            nn.init.normal_(self.direction.weight, std=0.5)
            nn.init.normal_(self.answer.weight, std=width**-0.5)
            nn.init.zeros_(self.offset.weight)

        def tokens(self, signal: Tensor, hours: Tensor, value: Tensor, hidden: Tensor) -> Tensor:
            """Tokens [B, L, D] of events [B, L]."""
            angles = hours[:, :, None] * (
                2 * torch.pi / torch.tensor(_PERIODS, device=hours.device)
            )
            clock = torch.cat([torch.log1p(-hours)[:, :, None], angles.sin(), angles.cos()], dim=2)
            value = value[:, :, None]
            visible = value * self.direction(signal) + self.curve(value)
            return (
                self.signal(signal)
                + self.clock(clock)
                + torch.where(hidden[:, :, None], self.hidden, visible)
            )

        def forward(
            self, signal: Tensor, hours: Tensor, value: Tensor, mask: Tensor, hidden: Tensor
        ) -> Tensor:
            """States [B, L, D]."""
            return self.layers(
                self.tokens(signal, hours, value, hidden), src_key_padding_mask=~mask
            )

        def expected(self, states: Tensor, signal: Tensor) -> Tensor:
            """Scaled values [B, L] that the states say."""
            return (states * self.answer(signal)).sum(2) + self.offset(signal)[:, :, 0]

        def encode(
            self, signal: Tensor, hours: Tensor, value: Tensor, mask: Tensor, asked: Tensor
        ) -> tuple[Tensor, Tensor]:
            """States [B, L, D], and what is expected of the signals ``asked`` [S] at the prediction
            time [B, S].
            """
            n, length = signal.shape
            asked = asked.expand(n, -1)
            none = torch.zeros(asked.shape, device=hours.device)
            signal = torch.cat([signal, asked], 1)
            hours = torch.cat([hours, none], 1)
            value = torch.cat([value, none], 1)
            mask = torch.cat([mask, none == 0], 1)
            hidden = torch.zeros_like(mask)
            hidden[:, length:] = True
            # What is asked reads the events, and the events nothing of what is asked.
            blind = torch.zeros(
                signal.shape[1], signal.shape[1], dtype=torch.bool, device=hours.device
            )
            blind[:, length:] = True
            blind.fill_diagonal_(False)
            tokens = self.tokens(signal, hours, value, hidden)
            states = self.layers(tokens, mask=blind, src_key_padding_mask=~mask)
            return states[:, :length], self.expected(states[:, length:], asked)

    return EventTransformer()
