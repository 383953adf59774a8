"""The paper's claims, a file each: the question, the analysis and the charts."""
