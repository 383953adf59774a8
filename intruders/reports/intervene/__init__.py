"""A sweep of interventions as text."""
