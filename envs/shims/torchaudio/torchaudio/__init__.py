"""Empty replacement for torchaudio, for packages that import it without using it."""
