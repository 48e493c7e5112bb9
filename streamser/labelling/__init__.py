"""Label many files into rows; where the files come from and where the rows go is the caller's."""
