"""Read corpora of emotional speech: layouts, clips, and protocols that split them (needs no torch)."""
