"""Changes of a model, measured: interventions, remedies side by side, healing, attribution."""
