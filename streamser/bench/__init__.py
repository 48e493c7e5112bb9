"""Measure streamser, and what else is installed, on one sound in one run: `streamser bench` shows the results."""
