"""The state of the evidence: every claim of the paper with all the evidence there is, graded and drawn."""
