"""Label many files into rows; the caller decides where files come from and where rows go."""
