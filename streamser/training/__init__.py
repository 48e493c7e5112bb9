"""Train networks from recipes: augmentation, batches, fitting and writing the checkpoint (needs torch)."""
