"""Fixtures that several test files share, and what holds for all property tests."""

from hypothesis import HealthCheck, settings
from slurm_cluster import slurm_cluster  # noqa: F401  a fixture is known by being here

# A busy machine is no mistake: no example has to be made or done within a time. Where $CI is set, hypothesis takes the
# same examples in every run, so that what fails there is what was changed. Elsewhere it looks for new ones, and one
# that fails is kept in .hypothesis/ and tried first from then on.
settings.register_profile("untimed", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")
