"""Train networks from recipes: augmentation, batches, fitting and the checkpoint that comes out (needs torch)."""
