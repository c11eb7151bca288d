"""Segmentation by watershed and agglomeration: the baselines that flood filling is compared with."""
