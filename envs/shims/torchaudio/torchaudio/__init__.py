"""Stands in for torchaudio where only its import is needed."""
