"""What a student learns from its teacher besides outputs: features, attention and relations, one file for each."""

from penjing.training.knowledge.attention import attention_map, attention_matrices, attention_transfer
from penjing.training.knowledge.features import Projection, feature_distance
from penjing.training.knowledge.lessons import LAYER_LOSSES, Lessons
from penjing.training.knowledge.relations import relational_angles, relational_distances, similarity

__all__ = [
    "LAYER_LOSSES",
    "Lessons",
    "Projection",
    "attention_map",
    "attention_matrices",
    "attention_transfer",
    "feature_distance",
    "relational_angles",
    "relational_distances",
    "similarity",
]
