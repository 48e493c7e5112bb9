"""From blocks of audio to emotion events: ring, voice activity, segments, threads."""
