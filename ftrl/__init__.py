__version__ = "0.1.0"

from ftrl.build import build
from ftrl.collect import collect
from ftrl.train import train
from ftrl.bench import evaluate
from ftrl.delta import diff
from ftrl.figure import plot
from ftrl.reproduce import reproduce
