"""Measure checkpoints: metrics, calibration, folds, degraded audio and reports (needs no torch)."""
