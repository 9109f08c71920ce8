"""The plan as data: steps, recipes, contracts, and what a plan may ask of its target."""

from penjing.recipe.contract import Contract, MaxDrop, MinValue, metric_name
from penjing.recipe.recipe import Recipe, as_recipe
from penjing.recipe.regularize import Regularize
from penjing.recipe.schemes import SCHEMES, Grid, Scheme
from penjing.recipe.steps import STEPS, DropBlocks, Finetune, Lossless, PruneChannels, Quantize, Rewind, Sparsify, Step
from penjing.recipe.target import Target

__all__ = [
    "SCHEMES",
    "STEPS",
    "Contract",
    "DropBlocks",
    "Finetune",
    "Grid",
    "Lossless",
    "MaxDrop",
    "MinValue",
    "PruneChannels",
    "Quantize",
    "Recipe",
    "Regularize",
    "Rewind",
    "Scheme",
    "Sparsify",
    "Step",
    "Target",
    "as_recipe",
    "metric_name",
]
