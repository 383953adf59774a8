"""Audits, their comparison and critical scales, as text, figures and a model card."""
