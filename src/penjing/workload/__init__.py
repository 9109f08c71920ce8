"""The model, its data and its metric: what is to be made smaller, and how it is known that it still works."""

from penjing.workload import metrics
from penjing.workload.batch import Batch, unpack_default
from penjing.workload.digits import digits
from penjing.workload.identity import without
from penjing.workload.inputs import ExampleInputs
from penjing.workload.metric import Metric, MetricKind, Samples
from penjing.workload.metrics import accuracy, top_k
from penjing.workload.model import is_onnx, read_model
from penjing.workload.modes import device_of, preserved, preserved_randomness
from penjing.workload.outputs import check_finite, select_default
from penjing.workload.samples import BasicBlock, ResNet, resnet18, resnet20
from penjing.workload.sources import dataset
from penjing.workload.workload import Workload

__all__ = [
    "BasicBlock",
    "Batch",
    "ExampleInputs",
    "Metric",
    "MetricKind",
    "ResNet",
    "Samples",
    "Workload",
    "accuracy",
    "check_finite",
    "dataset",
    "device_of",
    "digits",
    "is_onnx",
    "metrics",
    "preserved",
    "preserved_randomness",
    "read_model",
    "resnet18",
    "resnet20",
    "select_default",
    "top_k",
    "unpack_default",
    "without",
]
