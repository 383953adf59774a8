"""The result of an audit, in every form that it is kept and shown in."""
