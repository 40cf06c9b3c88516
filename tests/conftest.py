"""Fixtures that several test files share."""

from slurm_cluster import slurm_cluster  # noqa: F401  a fixture is known by being here
