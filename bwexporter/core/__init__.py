"""Values and laws of bwexporter, pure: no clock, no kernel, no file, no log."""
