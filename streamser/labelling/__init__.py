"""Turn many audio files into rows of labels; the caller chooses the files and stores the rows."""
