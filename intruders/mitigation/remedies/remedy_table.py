"""Every remedy by name, with the module and class that it lives in; light, so that settings and help can list them."""

INTRUDERS = "intruders"

# Published remedies, in the order of every table and help text.
HOMES_OF_PUBLISHED = {
    "interpolate": "shares.Interpolate",
    "budget": "singular_values.Budget",
    "flatten": "singular_values.Flatten",
    "truncate": "singular_values.Truncate",
    "lines": "shares.Lines",
    "layers": "shares.Layers",
    "heads": "heads.Heads",
    "directions": "base_directions.Directions",
    "project": "base_directions.Project",
    "dg-hard": "singular_values.DGHard",
    "trim": "entries.Trim",
    "drop": "entries.Drop",
    "fapm": "entries.FAPM",
    "surgery": "surgery.Surgery",
    "doses": "doses.Doses",
}

PUBLISHED = tuple(HOMES_OF_PUBLISHED)
# Controls that change a model in the place of its intruders, and need the weights alone.
CONTROLS = ("shrink", "random", "neighbours", "update", "resized", "complement")
# The control that needs text which the base reads, too.
SHRINK_OUTPUT = "shrink-output"
# What sentences call a control.
CONTROL_NAMES = {
    "shrink": "the norm-matched shrink",
    SHRINK_OUTPUT: "the update scaled to the same output energy",
    "random": "random other vectors",
    "neighbours": "neighboring vectors",
    "update": "directions of the update",
    "complement": "the update outside of the intruders, to the same norm,",
}
# Of a matrix's intruders: all, or the one with the largest singular value.
ALL, TOP = "all", "top"
WHICH = (ALL, TOP)
WHICH_HELP = "Intruders to scale: all, or top for the strongest one of each matrix, by singular value, as in the paper."
