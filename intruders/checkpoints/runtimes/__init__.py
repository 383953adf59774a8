"""Whether a runtime applies an adapter: what each of them does with its settings and with the names of its weights."""
