"""nissl: experiment-tracking training framework for the deep learning of neurons.

One run = a dataset x a model x a task, measured by evaluators, recorded by a logger.
"""

__version__ = "0.1.0"
