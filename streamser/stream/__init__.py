"""From blocks of sound to emotion events: ring, voice activity, segments, threads."""
