"""ApMon: figures pushed to MonALISA as datagrams, from bwexporter or from any Python program."""
