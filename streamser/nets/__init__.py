"""The five papers' networks, one file each, and the zoo that lists every published variant (needs torch)."""
