"""Geometry of trees of points: what data sets and evaluators both need to know of a neuron."""
