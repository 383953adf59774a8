"""What an audit is: its settings, the verb, its result and every form of that result."""
