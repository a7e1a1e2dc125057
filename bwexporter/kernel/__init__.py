"""Door to HTB over netlink: looks, and acts on changes."""
