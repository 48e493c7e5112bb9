"""Measure streamser, and what else is installed, on one recording in one run: `streamser bench` shows the results."""
