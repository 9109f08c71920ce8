"""Low rank: layers as chains of smaller ones, nearest in their weights or in their outputs on data."""

from penjing.techniques.factorize.forms import FORMS, Form
from penjing.techniques.factorize.technique import needs, run

__all__ = ["FORMS", "Form", "needs", "run"]
