"""Door to where slices come from: checked records out."""
