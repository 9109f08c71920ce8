"""Let weights share values: k-means on a line, palettes, and training that moves centroids."""

from penjing.techniques.cluster.files import load_palettes, save_palettes
from penjing.techniques.cluster.hook import KeepPalettes
from penjing.techniques.cluster.keeping import refitted, surviving
from penjing.techniques.cluster.palette import Palette
from penjing.techniques.cluster.technique import needs, run

__all__ = ["KeepPalettes", "Palette", "load_palettes", "needs", "refitted", "run", "save_palettes", "surviving"]
