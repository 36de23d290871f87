"""The terminal: tables in each output format, messages, and progress while trainings run."""
