"""Tool-use reinforcement learning: build verifiable environments, train on them, evaluate, explain.

Eight verbs: `build` environments, `collect` what a policy meets in them, `train` it, `evaluate` it on ten benchmarks, `diff`
its weights, `plot` what came out, `reproduce` the whole method, `tune` a model of your own on your own data. Each has a
command of the same name or near it: `ftrl --help`.
"""

__version__ = "0.1.0"

from ftrl.environments.build import build
from ftrl.training.collect import collect
from ftrl.training.train import train
from ftrl.evaluation.bench import evaluate
from ftrl.weights.delta import diff
from ftrl.figures.figure import plot
from ftrl.registry import explain
from ftrl.runs.reproduce import reproduce
from ftrl.runs.tune import tune

explain(build, collect, train, evaluate, diff, plot, reproduce, tune)
del explain
