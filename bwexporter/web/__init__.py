"""Door for HTTP: serves what the turn has made ready."""
