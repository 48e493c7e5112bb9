"""Measure checkpoints: metrics, calibration, folds, degraded sound and reports (needs no torch)."""
