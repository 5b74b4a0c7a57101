"""The paper's side: its printed facts, its tables and figures beside ours, and the verdicts on its claims."""
