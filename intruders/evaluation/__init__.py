"""What a model can do and still knows: losses, accuracies, interventions, tasks in sequence."""
