"""The tests of reports keep what is learnt of bases for themselves."""

from tests.studies.conftest import own_cache

__all__ = ["own_cache"]
