"""Measure streamser and other installed programs on the same audio; `streamser bench` prints the results."""
