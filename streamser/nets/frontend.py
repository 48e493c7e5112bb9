"""The front end of `streamser.features` in torch: batched, on any device, and differentiable."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from streamser.features import FeatureConfig, dct_matrix, mel_matrix, window_values


class TorchFrontEnd(nn.Module):
    """Samples (B, n) at `config.sample_rate` to frames (B, T, bins), the values of `features.extract`.

    This module does not resample: if the config has another rate than 16 kHz, call `audio.resample` first. It computes
    in float64 and returns float32, because beside a full-scale tone, the rounding errors of a float32 FFT would exceed
    the floor.
    """

    window: Tensor
    mel: Tensor
    dct: Tensor | None
    mean: Tensor | None
    std: Tensor | None

    def __init__(self, config: FeatureConfig) -> None:
        super().__init__()
        self.config = config
        if config.kind == "samples":
            return
        standard = config.scale == "standard"
        constants = {
            "window": torch.from_numpy(window_values(config).copy()),
            "mel": torch.from_numpy(mel_matrix(config).copy()).double(),
            "dct": torch.from_numpy(dct_matrix(config).copy()).double() if config.mfcc else None,
            "mean": torch.tensor(config.mean, dtype=torch.float64) if standard else None,
            "std": torch.tensor(config.std, dtype=torch.float64) if standard else None,
        }
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, samples: Tensor) -> Tensor:
        """All whole frames of each signal, (B, n) -> (B, T, bins)."""
        if samples.ndim != 2:
            raise ValueError(f"samples must have shape (batch, samples), not {tuple(samples.shape)}")
        if self.config.kind == "samples":
            size = self.config.hop_samples
            return samples[:, : samples.shape[1] // size * size].float().reshape(len(samples), -1, size)
        with torch.autocast(samples.device.type, enabled=False):
            return self._scaled(self._log_mel(self._framed(samples.double()))).float()

    def _framed(self, samples: Tensor) -> Tensor:
        """Overlapping pieces of the audio, padded with silence as the config asks, (B, n) -> (B, T, fft_size)."""
        config, size = self.config, samples.shape[1]
        n_frames = config.frames_in(size)
        if not n_frames:
            return samples.new_zeros(len(samples), 0, config.fft_size)
        lead = config.fft_size // 2 if config.center else (config.fft_size - config.window_samples) // 2
        need = (n_frames - 1) * config.hop_samples + config.fft_size
        padded = F.pad(samples, (lead, max(0, need - lead - size)))
        return padded.unfold(1, config.fft_size, config.hop_samples)[:, :n_frames]

    def _log_mel(self, pieces: Tensor) -> Tensor:
        """Log-mel of the pieces, (B, T, fft_size) -> (B, T, n_mels)."""
        config = self.config
        if not pieces.shape[1]:
            return pieces.new_zeros(len(pieces), 0, config.n_mels)
        spectrum = torch.fft.rfft(pieces * self.window)
        power = (spectrum.real.square() + spectrum.imag.square()) @ self.mel
        level = torch.log(power.clamp_min(config.floor)) - math.log(max(config.reference, config.floor))
        return level * (10.0 / math.log(10.0)) if config.log == "db" else level

    def _scaled(self, level: Tensor) -> Tensor:
        """Cepstra if the config has them, then clipping and scaling, (B, T, n_mels) -> (B, T, bins)."""
        config = self.config
        values = level if self.dct is None else level @ self.dct
        if config.clip is not None:
            low, high = config.clip
            values = values.clamp(low, high)
            if config.scale == "unit":
                values = (values - low) / (high - low)
        if self.mean is not None and self.std is not None:
            values = (values - self.mean) / self.std
        return values
