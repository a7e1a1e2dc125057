"""ApMon: figures pushed to MonALISA as datagrams, from bwexporter or from any Python program."""

from bwexporter.apmon.compatible import ApMon
from bwexporter.apmon.destinations import Destination
from bwexporter.apmon.sender import Delivery, Sender

__all__ = ["ApMon", "Delivery", "Destination", "Sender"]
