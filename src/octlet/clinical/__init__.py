"""Volumes and clinical files: what a scanner or an archive wrote, to B-scans in gray."""

from octlet.clinical.read import CLINICAL_SUFFIXES, read_volumes
from octlet.clinical.volume import Volume

__all__ = ["CLINICAL_SUFFIXES", "Volume", "read_volumes"]
