"""One execution in a run directory: ledger, resume, verify, report."""
