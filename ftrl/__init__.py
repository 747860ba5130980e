__version__ = "0.1.0"

from ftrl.environments.build import build
from ftrl.training.collect import collect
from ftrl.training.train import train
from ftrl.evaluation.bench import evaluate
from ftrl.weights.delta import diff
from ftrl.figures.figure import plot
from ftrl.runs.reproduce import reproduce
