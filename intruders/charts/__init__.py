"""Pictures as data, and how they are drawn. Nothing of audits or studies lives here."""
