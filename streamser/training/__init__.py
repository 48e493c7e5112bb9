"""The offline trainer: corpora, protocols, augmentation, fitting, evaluation (needs torch)."""
