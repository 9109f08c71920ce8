"""The plan as data: steps, recipes, contracts, and what a plan may ask of its target."""

from penjing.recipe.cluster import Cluster
from penjing.recipe.contract import Contract, MaxDrop, MinValue, metric_name
from penjing.recipe.factorize import Factorize
from penjing.recipe.recipe import Recipe, as_recipe
from penjing.recipe.regularize import Regularize
from penjing.recipe.schemes import SCHEMES, Grid, Scheme
from penjing.recipe.step import Step
from penjing.recipe.steps import STEPS, DropBlocks, Lossless, PruneChannels, Quantize, Rewind, Sparsify
from penjing.recipe.target import Target
from penjing.recipe.training_steps import Distill, Finetune, Training

__all__ = [
    "SCHEMES",
    "STEPS",
    "Cluster",
    "Contract",
    "Distill",
    "DropBlocks",
    "Factorize",
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
    "Training",
    "as_recipe",
    "metric_name",
]
